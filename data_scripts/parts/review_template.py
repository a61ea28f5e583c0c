"""The markup, style and script of the review page."""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Review of the faces</title>
<style>
:root { --ink: #1f2937; --soft: #6b7280; --line: #e5e7eb; --keep: #15803d; --out: #b91c1c; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #f9fafb;
  font: 15px/1.45 system-ui, "Noto Sans KR", "Apple SD Gothic Neo", "Malgun Gothic", sans-serif; }
main, header > div { max-width: 1240px; margin: 0 auto; padding: 0 20px; }
header { background: #fff; border-bottom: 1px solid var(--line); padding: 22px 0 14px; }
h1 { font-size: 24px; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 0; }
p { margin: 4px 0; color: var(--soft); max-width: 75ch; }
nav { position: sticky; top: 0; z-index: 2; background: #fffffff2;
  border-bottom: 1px solid var(--line); }
nav > div { max-width: 1240px; margin: 0 auto; padding: 10px 20px; display: flex; gap: 10px 16px;
  flex-wrap: wrap; align-items: center; }
nav a { color: #1d4ed8; text-decoration: none; white-space: nowrap; }
nav .grow { flex: 1; }
button { font: inherit; padding: 5px 12px; border: 1px solid #d1d5db; border-radius: 7px;
  background: #fff; cursor: pointer; color: var(--ink); }
button:hover { background: #f3f4f6; }
button.main { background: #1d4ed8; border-color: #1d4ed8; color: #fff; font-weight: 600; }
button.main:hover { background: #1e40af; }
section { margin: 26px 0; }
section > div.head { display: flex; gap: 10px; align-items: baseline; flex-wrap: wrap; }
section > div.head .grow { flex: 1; }
.count { color: var(--soft); font-variant-numeric: tabular-nums; }
.cards { display: flex; flex-wrap: wrap; gap: 10px; margin-top: 12px; }
.group { display: flex; flex-wrap: wrap; gap: 8px; padding: 8px; border: 1px solid var(--line);
  border-radius: 12px; background: #fff; max-width: 100%; }
.card { width: 138px; padding: 8px; border: 2px solid var(--out); border-radius: 10px;
  background: #fff; cursor: pointer; content-visibility: auto;
  contain-intrinsic-size: 138px 230px; }
.card.keep { border-color: var(--keep); }
.card:hover { box-shadow: 0 2px 8px #0002; }
.card img, .card .none { width: 118px; height: 118px; object-fit: contain; display: block;
  background: #f3f4f6; border-radius: 5px; }
.card .none { display: grid; place-items: center; color: var(--soft); font-size: 12px;
  text-align: center; }
.card:not(.keep) img { opacity: .75; }
.card label { display: flex; gap: 6px; align-items: center; margin: 6px 0 2px; font-weight: 600;
  color: var(--out); cursor: pointer; }
.card.keep label { color: var(--keep); }
.name, .detail { font-size: 12px; overflow-wrap: anywhere; line-height: 1.3; }
.name .who { font-weight: 600; display: block; }
.detail { color: var(--soft); margin-top: 3px; }
.beside { display: flex; flex-direction: column; gap: 8px; justify-content: flex-start; }
.beside img { width: 64px; height: 64px; object-fit: contain; border-radius: 5px; margin-right: 4px;
  background: #f3f4f6; }
.beside .who { font-size: 12px; color: var(--soft); max-width: 204px; overflow-wrap: anywhere; }
.changed::after { content: "changed"; font-size: 11px; color: #92400e; background: #fef3c7;
  padding: 0 5px; border-radius: 5px; margin-left: auto; font-weight: 400; }
table { border-collapse: collapse; margin-top: 10px; background: #fff; }
td, th { border: 1px solid var(--line); padding: 5px 12px; text-align: left; }
.note { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
</style>
</head>
<body>
<header><div>
<h1 id="title"></h1>
<p id="intro"></p>
<p>A green frame means that the image is kept, a red one that it is left out of the data set.
Click a picture to change it. When you are done, press <b>Save the list</b> and put the saved
<code>clean.csv</code> in place of the one beside this page. Nothing is deleted: the next step,
<code>split.py --clean</code>, leaves out what is red here.</p>
</div></header>
<nav><div id="bar"></div></nav>
<main id="main"><noscript><p>This page needs JavaScript; the list is in clean.csv.</p></noscript>
</main>
<script type="application/json" id="data">__DATA__</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const memory = "facelab-review-" + data.key;
const cards = [];
let answers = {};
try { answers = JSON.parse(localStorage.getItem(memory) || "{}"); } catch (error) {}

function make(tag, parent, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  if (parent) parent.append(made);
  return made;
}
const count = n => n.toLocaleString("en");
const many = (n, one, more) => count(n) + " " + (n === 1 ? one : more);

function show(card) {
  card.node.classList.toggle("keep", card.now);
  card.box.checked = card.now;
  card.word.textContent = card.now ? "keep" : "leave out";
  card.label.classList.toggle("changed", card.now !== card.keep);
}
function set(card, keep) {
  card.now = keep;
  if (keep === card.keep) delete answers[card.file]; else answers[card.file] = keep;
  if (card.node) show(card);
}
function settle() {
  try { localStorage.setItem(memory, JSON.stringify(answers)); } catch (error) {}
  const kept = cards.filter(card => card.now).length;
  const changed = Object.keys(answers).length;
  state.textContent = many(cards.length - kept, "image", "images") + " left out, " +
    count(data.images - cards.length + kept) + " kept" +
    (changed ? ", " + count(changed) + " changed by you" : "");
  undo.disabled = !changed;
}
function draw(card, parent) {
  const node = card.node = make("div", parent, undefined, "card");
  if (card.picture) {
    const image = make("img", node);
    image.src = card.picture;
    image.alt = "";
  } else make("div", node, "no picture", "none");
  card.label = make("label", node);
  card.box = make("input", card.label);
  card.box.type = "checkbox";
  card.word = make("span", card.label);
  const name = make("div", node, undefined, "name");
  const cut = card.file.indexOf("/");
  make("span", name, card.file.slice(0, cut), "who");
  make("span", name, card.file.slice(cut + 1) + (card.size ? "  " + card.size : ""));
  make("div", node, card.detail, "detail");
  node.title = card.file;
  node.addEventListener("click", event => {
    if (event.target !== card.box) event.preventDefault();
    set(card, event.target === card.box ? card.box.checked : !card.now);
    settle();
  });
  show(card);
}
const cell = text => {
  if (/^[=+\\-@\\t\\r]/.test(text)) text = "'" + text;
  return /[",\\r\\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
};
function save() {
  const rows = cards.map(card =>
    [card.file, card.now ? "Y" : "N", card.reason, card.detail].map(cell).join(","));
  const text = ["file,keep,reason,detail", ...rows].join("\\n") + "\\n";
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "text/csv;charset=utf-8"}));
  link.download = "clean.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

document.getElementById("title").textContent = "Review of " + data.about;
const total = data.sections.reduce((sum, section) => sum + section.cards.length, 0);
document.getElementById("intro").textContent =
  many(data.images, "image", "images") + " of " +
  many(data.identities, "identity", "identities") + ". " +
  (total ? count(total) + " of them should be looked at." : "Nothing was found.") +
  (data.judged === null ? " Wrong faces were not looked for: give clean.py trained --weights." :
    " The weights put " + data.judged + " % of the images nearest to their own identity" +
    (data.judged < 80 ? ": too few to trust them, so look twice." : "."));
const bar = document.getElementById("bar");
const main = document.getElementById("main");
for (const section of data.sections) {
  const link = make("a", bar, section.title + " " + count(section.cards.length));
  link.href = "#" + section.reason.replaceAll(" ", "-");
  const node = make("section", main);
  node.id = section.reason.replaceAll(" ", "-");
  const head = make("div", node, undefined, "head");
  make("h2", head, section.title);
  make("span", head, count(section.cards.length), "count");
  make("span", head, undefined, "grow");
  const mine = [];
  for (const [word, keep] of [["Keep all", true], ["Leave all out", false]]) {
    make("button", head, word).addEventListener("click", () => {
      mine.forEach(card => set(card, keep));
      settle();
    });
  }
  make("button", head, "As suggested").addEventListener("click", () => {
    mine.forEach(card => set(card, card.keep));
    settle();
  });
  make("p", node, section.text);
  const place = make("div", node, undefined, "cards");
  let group = null, last = -1;
  section.cards.forEach((card, k) => {
    card.reason = section.reason;
    card.now = card.file in answers ? answers[card.file] : card.keep;
    cards.push(card);
    mine.push(card);
    if (k >= section.most) return;
    if (card.group !== last) group = null;
    if (card.group >= 0 && !group) group = make("div", place, undefined, "group");
    last = card.group;
    if (card.beside) group = make("div", place, undefined, "group");
    draw(card, group || place);
    if (card.beside) {
      const beside = make("div", group, undefined, "beside");
      card.beside.forEach((row, n) => {
        const line = make("div", beside);
        make("div", line, (n ? "or rather: " : "filed under: ") + row.who, "who");
        row.faces.forEach(face => {
          const image = make("img", line);
          image.src = face.picture || "";
          image.alt = "";
        });
      });
    }
  });
  if (section.cards.length > section.most)
    make("p", node, count(section.cards.length - section.most) + " more are not shown here; " +
      "they are in the list as suggested (clean.py --shown N shows more).");
}
if (data.same.length) {
  const node = make("section", main);
  make("h2", node, "One person under two names?");
  make("p", node, "If so, put the images into one folder and run clean.py again; or give " +
    "split.py --together same_people.csv, which keeps them in one set. Strike out what is wrong.");
  const table = make("table", node);
  const row = make("tr", table);
  ["identity", "may be", "why"].forEach(text => make("th", row, text));
  for (const line of data.same) {
    const tr = make("tr", table);
    line.forEach(text => make("td", tr, text));
  }
}
make("span", bar, undefined, "grow");
const state = make("span", bar, "", "count");
const undo = make("button", bar, "Undo my changes");
undo.addEventListener("click", () => {
  cards.forEach(card => set(card, card.keep));
  settle();
});
make("button", bar, "Save the list", "main").addEventListener("click", save);
settle();
</script>
</body>
</html>
"""
