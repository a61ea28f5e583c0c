"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const REASONS = {
  "in two identities": ["The same photo under two names",
    "One of the names is wrong. Keep a copy only where you know whose face it is."],
  "wrong face": ["Perhaps another person",
    "Far from the other photos of this identity and near those of another."],
  "odd face": ["Unlike the others of its identity",
    "Far from the other photos of this identity, near nobody else's: a stranger, a wrong crop, " +
    "or an unusual photo. Kept unless you say otherwise."],
  "near-duplicate": ["Copies of one photo",
    "The best copy of each group is kept: the largest, then the sharpest."],
  "blurred": ["Blurred", "Too little detail for its contrast, whatever its size in pixels."],
  "too small": ["Too small", "Fewer pixels than asked for."],
  "flat": ["No picture", "One flat colour."],
  "unreadable": ["Unreadable", "The file cannot be decoded; it will be left out."],
};
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
  if (/^(\s*[=+\-@＝＋－＠]|[\t\r])/.test(text)) text = "'" + text;
  return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
};
function save() {
  const rows = cards.map(card =>
    [card.file, card.now ? "Y" : "N", card.reason, card.detail].map(cell).join(","));
  const text = ["file,keep,reason,detail", ...rows].join("\n") + "\n";
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "text/csv;charset=utf-8"}));
  link.download = "clean.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const total = data.sections.reduce((sum, section) => sum + section.cards.length, 0);
document.getElementById("intro").textContent =
  many(data.images, "image", "images") + " of " +
  many(data.identities, "identity", "identities") + ". " +
  (total ? count(total) + " of them should be looked at." : "Nothing was found.") +
  (data.judged === null ? " Label errors were not looked for: give clean.py trained --weights." :
    " The weights put " + data.judged + " % of the images nearest to their own identity" +
    (data.judged < 80 ? ": too few to trust them, so look twice." : "."));
const bar = document.getElementById("bar");
const main = document.getElementById("main");
for (const section of data.sections) {
  const [title, explanation] = REASONS[section.reason];
  const link = make("a", bar, title + " " + count(section.cards.length));
  link.href = "#" + section.reason.replaceAll(" ", "-");
  const node = make("section", main);
  node.id = section.reason.replaceAll(" ", "-");
  const head = make("div", node, undefined, "head");
  make("h2", head, title);
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
  make("p", node, explanation);
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
