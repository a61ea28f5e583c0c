"""What the FaceMap page does in the browser, as JavaScript, and how it looks."""

START = """
source.data.url = shown.length > 0 ? Array.from(shown, (k) => pictures[k]) : pictures
if (images !== null) { images.data.url = source.data.url; images.change.emit() }
source.change.emit()
document.addEventListener("click", (event) => {
  const face = event.composedPath().find((node) => node.dataset && node.dataset.face)
  if (face) { source.selected.indices = [Number(face.dataset.face)] }
})
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { source.selected.indices = [] }
})
"""

SELECT = """
const escaped = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`)
const {x, y, name, url, detail} = source.data
const chosen = source.selected.indices[0]
const card = (i, line, share) => `<div class="card" data-face="${i}">
  <img src="${escaped(url[i])}"><div><b>${escaped(name[i])}</b><span>${escaped(detail[i])}</span>
  ${share === null ? "" : `<i><u style="width:${Math.max(0, 100 * share).toFixed(1)}%"></u></i>`}
  <span>${line}</span></div></div>`
veil.visible = chosen !== undefined
if (chosen === undefined) {
  links.data = {x0: [], y0: [], x1: [], y1: []}
  lit.data = {x: [], y: [], url: [], colour: []}
  panel.text = hint
} else {
  const k = near.tags[0]
  const first = chosen * k
  const faces = Array.from(near.data.face.slice(first, first + k))
  const alike = Array.from(near.data.similarity.slice(first, first + k))
  const all = [...faces.toReversed(), chosen]
  links.data = {
    x0: faces.map(() => x[chosen]), y0: faces.map(() => y[chosen]),
    x1: faces.map((i) => x[i]), y1: faces.map((i) => y[i]),
  }
  lit.data = {
    x: all.map((i) => x[i]), y: all.map((i) => y[i]), url: all.map((i) => url[i]),
    colour: all.map((i) => i === chosen ? "#2563eb" : "#f59e0b"),
  }
  panel.text = card(chosen, "", null) + (faces.length ? `<h3>Nearest in the embedding</h3>` : "")
    + faces.map((i, j) => card(i, `similarity ${alike[j].toFixed(3)}`, alike[j])).join("")
}
"""

SEARCH = """
const wanted = cb_obj.value.trim().toLowerCase()
if (wanted !== "") {
  const texts = source.data.search
  const at = (test) => Array.from(texts).findIndex((text) => test(text.toLowerCase()))
  let found = at((text) => text === wanted)
  if (found < 0) { found = at((text) => text.includes(wanted)) }
  if (found >= 0) {
    const {x, y} = source.data
    const ratio = Math.abs((ys.end - ys.start) / (xs.end - xs.start))
    const half = Math.min(0.16, (xs.end - xs.start) / 2)
    xs.have_updated_interactively = ys.have_updated_interactively = true
    xs.setv({start: x[found] - half, end: x[found] + half})
    ys.setv({start: y[found] - half * ratio, end: y[found] + half * ratio})
    source.selected.indices = [found]
  }
}
"""

SWITCH = """
const name = names[cb_obj.active]
source.data.x = store.data[name + " x"]
source.data.y = store.data[name + " y"]
source.change.emit()
if (images !== null) {
  images.data.x = source.data.x
  images.data.y = source.data.y
  images.change.emit()
}
chosen.execute(source.selected, {})
foot.text = lines[cb_obj.active]
"""

RESIZE = """
const side = cb_obj.value
for (const glyph of pictures) { glyph.w = glyph.h = {value: side, units: "screen"} }
for (const glyph of frames) { glyph.size = {value: side} }
for (const glyph of dots) { glyph.size = {value: Math.max(4, side / 4)} }
"""

COLOUR = """
const escaped = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`)
const name = cb_obj.value
const shown = palettes[name]
if (shown === undefined) {
  source.data.colour = new Array(source.data.x.length).fill(plain)
  legend.text = ""
  source.data.frame = new Float32Array(source.data.x.length)
} else {
  source.data.colour = Array.from(store.data["colour " + name], (k) => shown[k][1])
  source.data.frame = new Float32Array(source.data.x.length).fill(1)
  legend.text = shown.slice(0, 24).map(([text, colour]) =>
    `<span class="key"><s style="background:${colour}"></s>${escaped(text)}</span>`).join("")
}
source.change.emit()
"""

TOOLTIP = """
<div style="width:132px;text-align:center;font:13px system-ui,sans-serif">
  <img src="@url" style="width:128px;height:128px;object-fit:cover;border-radius:8px">
  <div style="font-weight:600;color:#111827;margin-top:4px">@name</div>
  <div style="color:#6b7280">@detail</div>
</div>
"""

PANEL_STYLE = """
:host { font: 14px system-ui, sans-serif; color: #111827; }
h3 { font-size: 13px; color: #6b7280; margin: 14px 0 6px; font-weight: 600; }
p { color: #6b7280; line-height: 1.5; margin: 4px 0 10px; }
.card { display: flex; gap: 10px; align-items: center; padding: 6px; border-radius: 10px;
  cursor: pointer; }
.card:hover { background: #f3f4f6; }
.card img { width: 56px; height: 56px; border-radius: 8px; object-fit: cover; }
.card > div { flex: 1; min-width: 0; display: flex; flex-direction: column; gap: 2px; }
.card b { font-weight: 600; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.card span { color: #6b7280; font-size: 12px; }
.card i { height: 5px; border-radius: 3px; background: #e5e7eb; display: block; }
.card u { height: 5px; border-radius: 3px; background: #f59e0b; display: block; }
.key { display: inline-flex; align-items: center; gap: 5px; margin: 0 10px 4px 0;
  font-size: 12px; color: #374151; }
.key s { width: 12px; height: 12px; border-radius: 3px; display: inline-block; }
"""

TEMPLATE = """
{% block postamble %}
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<style>
  html, body { height: 100%; margin: 0; background: #ffffff; overflow: hidden; }
  body { display: flex; flex-direction: column; font: 14px system-ui, sans-serif; }
  header { display: flex; gap: 14px; align-items: baseline; padding: 12px 18px 8px;
    border-bottom: 1px solid #e5e7eb; }
  header h1 { font-size: 20px; margin: 0; color: #111827; }
  header span { color: #6b7280; }
  main { flex: 1; min-height: 0; padding: 8px 12px; }
</style>
{% endblock %}
{% block inner_body %}
<header><h1>{{ title | e }}</h1><span>{{ counted | e }}</span><span>{{ note | e }}</span></header>
<main>{{ embed(roots[0]) }}</main>
{{ plot_script | indent(8) }}
{% endblock %}
"""
