"""What the FaceMap page does in the browser, as JavaScript."""

SCRIPT = """
const data = JSON.parse(document.getElementById("facemap-data").textContent)
const by = (id) => document.getElementById(id)
const numbers = (text, Kind) =>
  new Kind(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer)
const escaped = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`)
const {names, details, side, across} = data
const count = names.length
const shown = data.shown === null ? null : numbers(data.shown, Int32Array)
const near = {k: data.near.k, face: numbers(data.near.face, Int32Array),
  similarity: numbers(data.near.similarity, Float32Array)}
const maps = data.maps.map((map) => ({...map, places: numbers(map.places, Float32Array)}))
const canvas = by("map"), brush = canvas.getContext("2d"), tip = by("tip"), panel = by("panel")
const still = matchMedia("(prefers-reduced-motion: reduce)").matches
const HINT = panel.innerHTML

// pictures lie on sheets, many on one; each sheet is kept at halves of its size too
const perSheet = across * across
const style = document.head.appendChild(document.createElement("style"))
style.textContent = data.sheets.map((sheet, i) =>
  `.s${i} { background-image: url(${sheet}) }`).join("")
const spot = (face) => {
  const number = shown === null ? face : shown[face]
  const on = number % perSheet
  return [Math.floor(number / perSheet), on % across, Math.floor(on / across)]
}
const spots = Array.from({length: count}, (_, face) => spot(face))
let sheets = []
const colours = new Array(count).fill("#d1d5db")

async function load() {
  sheets = await Promise.all(data.sheets.map(async (address) => {
    const image = new Image()
    image.src = address
    await image.decode()
    const sizes = [image]
    for (let wide = image.width, high = image.height; wide / across > 16;) {
      wide = Math.ceil(wide / 2)
      high = Math.ceil(high / 2)
      const half = new OffscreenCanvas(wide, high)
      const paint = half.getContext("2d")
      paint.imageSmoothingQuality = "high"
      paint.drawImage(sizes.at(-1), 0, 0, wide, high)
      sizes.push(half)
    }
    return sizes
  }))
  sheets.forEach((sizes, number) => {
    const rows = Math.round(sizes[0].height / side), wide = Math.round(sizes[0].width / side)
    const small = new OffscreenCanvas(wide, rows)
    const paint = small.getContext("2d", {willReadFrequently: true})
    paint.drawImage(sizes.at(-1), 0, 0, wide, rows)
    const pixels = paint.getImageData(0, 0, wide, rows).data
    spots.forEach(([sheet, column, row], face) => {
      if (sheet !== number) { return }
      const at = 4 * (row * wide + column)
      colours[face] = `rgb(${pixels[at]},${pixels[at + 1]},${pixels[at + 2]})`
    })
  })
  request()
}

const place = Float32Array.from(maps[0].places)
const view = {x: 0.5, y: 0.5, scale: 500, fit: 500, wide: 1, high: 1}
let base = data.face, chosen = null, lit = [], hovered = null, frames = null

const faceSize = () =>
  Math.min(Math.max(base * Math.sqrt(view.scale / view.fit), 3), Math.max(base, 1.6 * side))
const screen = (face) => [
  view.wide / 2 + (place[2 * face] - view.x) * view.scale,
  view.high / 2 - (place[2 * face + 1] - view.y) * view.scale,
]

function fitted() {
  let [left, bottom, right, top] = [Infinity, Infinity, -Infinity, -Infinity]
  const {places} = maps[current]
  for (let i = 0; i < count; i++) {
    left = Math.min(left, places[2 * i])
    right = Math.max(right, places[2 * i])
    bottom = Math.min(bottom, places[2 * i + 1])
    top = Math.max(top, places[2 * i + 1])
  }
  const room = (length) => Math.max(length - base - 48, 40)
  view.fit = Math.min(
    room(view.wide) / Math.max(right - left, 0.05), room(view.high) / Math.max(top - bottom, 0.05))
  return {x: (left + right) / 2, y: (top + bottom) / 2, scale: view.fit}
}

function square(face, size) {
  const [x, y] = screen(face)
  if (x < -size || y < -size || x > view.wide + size || y > view.high + size) { return }
  const [sheet, column, row] = spots[face]
  if (!sheets.length || size * devicePixelRatio < 5) {
    brush.fillStyle = colours[face]
    brush.fillRect(x - size / 2, y - size / 2, size, size)
    return
  }
  const sizes = sheets[sheet]
  let level = 0
  while (level + 1 < sizes.length && side / 2 ** (level + 1) >= size * devicePixelRatio) { level++ }
  const edge = side * sizes[level].width / sizes[0].width
  brush.drawImage(sizes[level], column * edge, row * edge, edge, edge,
    x - size / 2, y - size / 2, size, size)
}

function framed(face, size, colour, width) {
  const [x, y] = screen(face)
  brush.strokeStyle = colour
  brush.lineWidth = width
  brush.strokeRect(x - size / 2, y - size / 2, size, size)
}

function draw() {
  const ratio = devicePixelRatio
  brush.setTransform(ratio, 0, 0, ratio, 0, 0)
  brush.clearRect(0, 0, view.wide, view.high)
  const size = faceSize()
  for (let face = 0; face < count; face++) {
    square(face, size)
    if (frames !== null) { framed(face, size, frames[face], Math.min(3, size / 5)) }
  }
  if (chosen === null) { return }
  brush.fillStyle = "rgba(250, 250, 250, 0.82)"
  brush.fillRect(0, 0, view.wide, view.high)
  const [x, y] = screen(chosen)
  brush.strokeStyle = "rgba(245, 158, 11, 0.7)"
  brush.lineWidth = 2
  brush.beginPath()
  for (const face of lit) { brush.moveTo(x, y); brush.lineTo(...screen(face)) }
  brush.stroke()
  const large = Math.max(size, 34)
  for (const face of lit.toReversed()) {
    square(face, large)
    framed(face, large, "#f59e0b", 3)
  }
  square(chosen, large)
  framed(chosen, large, "#2563eb", 3)
}

// a map too heavy to draw sixty times a second is moved as a picture and drawn when it rests
const kept = {picture: new OffscreenCanvas(1, 1), view: null}
let waiting = false, moving = false, took = 0, drawnAt = 0, rest = 0
function request() {
  if (!waiting) { waiting = true; requestAnimationFrame(frame) }
}
function frame() {
  waiting = false
  const fresh = performance.now() - drawnAt < (took < 30 ? 250 : 2000)
  if (moving && kept.view !== null && fresh) {
    const grown = view.scale / kept.view.scale
    brush.setTransform(1, 0, 0, 1, 0, 0)
    brush.clearRect(0, 0, canvas.width, canvas.height)
    const ratio = devicePixelRatio
    brush.drawImage(kept.picture,
      ratio * (view.wide / 2 * (1 - grown) + (kept.view.x - view.x) * view.scale),
      ratio * (view.high / 2 * (1 - grown) - (kept.view.y - view.y) * view.scale),
      canvas.width * grown, canvas.height * grown)
    return
  }
  const start = performance.now()
  draw()
  drawnAt = performance.now()
  took = drawnAt - start
  kept.view = null
  if (count > 600 && sheets.length) {
    kept.picture.width = canvas.width
    kept.picture.height = canvas.height
    kept.picture.getContext("2d").drawImage(canvas, 0, 0)
    kept.view = {...view}
  }
}
function moved() {
  moving = true
  clearTimeout(rest)
  rest = setTimeout(() => { moving = false; request() }, 140)
  hover(null)
  request()
}

let flight = 0
function fly(change, done, milliseconds = 450) {
  const own = ++flight, start = performance.now(), length = still ? 0 : milliseconds
  const step = (now) => {
    if (own !== flight) { return }
    const share = length ? Math.min(Math.max((now - start) / length, 0), 1) : 1
    change(share * share * (3 - 2 * share))
    kept.view = null
    request()
    if (share < 1) { requestAnimationFrame(step) } else if (done) { done() }
  }
  requestAnimationFrame(step)
}
function flyTo(goal) {
  const from = {...view}
  fly((share) => {
    view.scale = from.scale * (goal.scale / from.scale) ** share
    view.x = from.x + share * (goal.x - from.x)
    view.y = from.y + share * (goal.y - from.y)
  })
}

const picture = (face, pixels) => {
  const [sheet, column, row] = spots[face], grown = pixels / side
  const wide = data.wide[sheet] * grown, high = data.high[sheet] * grown
  return `<span class="face s${sheet}" style="width:${pixels}px;height:${pixels}px;
    background-size:${wide}px ${high}px;
    background-position:${-column * pixels}px ${-row * pixels}px"></span>`
}
const card = (face, similarity) => `<button class="card" data-face="${face}">${picture(face, 56)}
  <span class="about"><b>${escaped(names[face])}</b><small>${escaped(details[face])}</small>
  ${similarity === null ? "" : `<i><u style="width:${Math.max(0, 100 * similarity).toFixed(1)}%">
  </u></i><small>similarity ${similarity.toFixed(3)}</small>`}</span></button>`

function choose(face) {
  chosen = face
  lit = []
  if (face === null) {
    panel.innerHTML = HINT
  } else {
    const first = face * near.k
    lit = Array.from(near.face.slice(first, first + near.k))
    panel.innerHTML = card(face, null) + (lit.length ? "<h3>Nearest in the embedding</h3>" : "")
      + lit.map((other, i) => card(other, near.similarity[first + i])).join("")
    panel.scrollTop = 0
  }
  kept.view = null
  request()
}
function find(face) {
  choose(face)
  const [x, y] = [place[2 * face], place[2 * face + 1]]
  let far = 0.02
  for (const other of lit) {
    far = Math.max(far, Math.abs(place[2 * other] - x), Math.abs(place[2 * other + 1] - y))
  }
  const room = Math.min(view.wide, view.high) / 2 - 40
  flyTo({x, y, scale: Math.max(view.fit, Math.min(room / far, 6 * view.fit))})
}

function faceAt(x, y) {
  const size = faceSize() / 2
  const over = (face, half) => {
    const [a, b] = screen(face)
    return Math.abs(a - x) <= half && Math.abs(b - y) <= half
  }
  if (chosen !== null) {
    const found = [chosen, ...lit].find((face) => over(face, Math.max(size, 17)))
    if (found !== undefined) { return found }
  }
  for (let face = count - 1; face >= 0; face--) {
    if (over(face, Math.max(size, 4))) { return face }
  }
  return null
}
function hover(face) {
  canvas.style.cursor = face === null ? "" : "pointer"
  if (face === hovered) { return }
  hovered = face
  tip.hidden = face === null
  if (face === null) { return }
  tip.innerHTML =
    `${picture(face, 128)}<b>${escaped(names[face])}</b><small>${escaped(details[face])}</small>`
  const [x, y] = screen(face), half = faceSize() / 2 + 10
  tip.style.left = `${x > view.wide / 2 ? x - half - 148 : x + half}px`
  tip.style.top = `${Math.min(Math.max(y - 90, 4), view.high - 196)}px`
}

function zoom(factor, x, y) {
  const scale = Math.min(Math.max(view.scale * factor, view.fit / 4), view.fit * 60)
  const [dx, dy] = [x - view.wide / 2, view.high / 2 - y]
  view.x += dx / view.scale - dx / scale
  view.y += dy / view.scale - dy / scale
  view.scale = scale
  flight++
  moved()
}
const within = (event) => {
  const area = canvas.getBoundingClientRect()
  return [event.clientX - area.left, event.clientY - area.top]
}
const touching = new Map()
let travelled = 0
canvas.addEventListener("wheel", (event) => {
  event.preventDefault()
  zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.04 : 0.0016)), ...within(event))
}, {passive: false})
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId)
  touching.set(event.pointerId, within(event))
  if (touching.size === 1) { travelled = 0 }
})
canvas.addEventListener("pointermove", (event) => {
  const [x, y] = within(event)
  const last = touching.get(event.pointerId)
  if (last === undefined) { hover(faceAt(x, y)); return }
  const [dx, dy] = [x - last[0], y - last[1]]
  travelled += Math.hypot(dx, dy)
  if (touching.size === 2) {
    const [other] = [...touching].filter(([id]) => id !== event.pointerId).map(([, at]) => at)
    const apart = (at) => Math.max(Math.hypot(at[0] - other[0], at[1] - other[1]), 1)
    zoom(apart([x, y]) / apart(last), other[0], other[1])
  } else if (travelled > 4) {
    view.x -= dx / view.scale
    view.y += dy / view.scale
    flight++
    moved()
  }
  touching.set(event.pointerId, [x, y])
})
canvas.addEventListener("pointerup", (event) => {
  if (touching.size === 1 && travelled <= 4) { choose(faceAt(...within(event))) }
  touching.delete(event.pointerId)
})
canvas.addEventListener("pointercancel", (event) => touching.delete(event.pointerId))
canvas.addEventListener("pointerleave", () => hover(null))
canvas.addEventListener("dblclick", () => flyTo(fitted()))
panel.addEventListener("click", (event) => {
  const found = event.target.closest("[data-face]")
  if (found !== null) { find(Number(found.dataset.face)) }
})
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { choose(null); by("search").value = ""; suggest() }
  if (event.target.tagName === "INPUT") { return }
  if (event.key === "+" || event.key === "=") { zoom(1.4, view.wide / 2, view.high / 2) }
  if (event.key === "-") { zoom(1 / 1.4, view.wide / 2, view.high / 2) }
  if (event.key === "0") { flyTo(fitted()) }
})

const searched = names.map((name, i) => `${name} ${details[i]}`.trim().toLowerCase())
function suggest() {
  const wanted = by("search").value.trim().toLowerCase()
  const found = []
  for (let face = 0; wanted && face < count && found.length < 12; face++) {
    if (searched[face].includes(wanted)) { found.push(face) }
  }
  const exact = found.findIndex((face) => names[face].toLowerCase() === wanted)
  if (exact > 0) { found.unshift(...found.splice(exact, 1)) }
  by("found").innerHTML = found.map((face) =>
    `<button data-face="${face}">${picture(face, 28)}<span>${escaped(names[face])}
    <small>${escaped(details[face])}</small></span></button>`).join("")
  return found
}
function findFirst(face) {
  by("found").innerHTML = ""
  if (face !== undefined) { by("search").value = names[face]; find(face) }
}
by("search").addEventListener("input", suggest)
by("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") { findFirst(suggest()[0]) }
})
by("found").addEventListener("click", (event) => {
  const button = event.target.closest("[data-face]")
  if (button !== null) { findFirst(Number(button.dataset.face)) }
})

let current = 0
const switches = maps.map((map, number) => {
  const button = document.createElement("button")
  button.textContent = map.title
  button.addEventListener("click", () => {
    switches[current].className = ""
    current = number
    button.className = "on"
    by("foot").textContent = map.line
    const from = Float32Array.from(place), goal = fitted(), start = {...view}
    fly((share) => {
      for (let i = 0; i < place.length; i++) {
        place[i] = from[i] + share * (map.places[i] - from[i])
      }
      for (const part of ["x", "y", "scale"]) {
        view[part] = start[part] + share * (goal[part] - start[part])
      }
    }, null, 700)
  })
  return button
})
if (maps.length > 1) { by("maps").append(...switches) }
switches[0].className = "on"
by("foot").textContent = maps[0].line

by("size").value = base
by("size").addEventListener("input", (event) => {
  base = Number(event.target.value)
  kept.view = null
  request()
})
if (data.attributes.length) {
  by("colouring").hidden = false
  by("colour").append(...["nothing", ...data.attributes.map(({name}) => name)].map((name) =>
    new Option(name, name)))
  by("colour").addEventListener("change", (event) => {
    const shade = data.attributes[event.target.selectedIndex - 1]
    const places = shade && numbers(shade.places, Int32Array)
    frames = shade ? Array.from(places, (at) => shade.palette[at][1]) : null
    by("legend").innerHTML = (shade ? shade.palette.slice(0, 24) : []).map(([text, colour]) =>
      `<span><s style="background:${colour}"></s>${escaped(text)}</span>`).join("")
    kept.view = null
    request()
  })
}

let before = true
new ResizeObserver(() => {
  const area = canvas.parentElement.getBoundingClientRect()
  view.wide = area.width
  view.high = area.height
  canvas.width = Math.max(1, Math.round(area.width * devicePixelRatio))
  canvas.height = Math.max(1, Math.round(area.height * devicePixelRatio))
  if (before && area.width > 0) {
    before = false
    Object.assign(view, fitted())
    if (data.chosen !== null) { choose(data.chosen) }
  }
  kept.view = null
  draw()
}).observe(canvas.parentElement)
load().then(() => { window.facemap = {screen, view, names} })
"""
