// The FaceMap: faces on one canvas, drawn from sheets that hold many pictures each.

const data = JSON.parse(document.getElementById("facemap-data").textContent)
const { names, details, maps, side, across } = data
const count = names.length
const still = matchMedia("(prefers-reduced-motion: reduce)").matches

const by = (id) => document.getElementById(id)
const canvas = by("map")
const brush = canvas.getContext("2d")
const hint = by("hint")

/** A new element with properties and children; text becomes text, never HTML. */
function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties)
  element.append(...children)
  return element
}

// What is seen: the middle of the view on the map, and pixels per unit of the map.
const view = { x: 0.5, y: 0.5, scale: 500, fit: 500, wide: 1, high: 1 }
const places = maps[0].places.map((place) => [...place]) // [x, y] of each face, y upwards
let current = 0 // which of the maps is shown
let base = 32 // side of a face when all are seen
let chosen = null
let near = [] // the faces nearest to the chosen one
let hovered = null
let aimed = null // the face that the arrow keys have moved to
let frames = null // the colour of the frame of each face

// Pictures

const spots = names.map((_, face) => {
  const place = face % (across * across)
  return [Math.floor(face / across ** 2), place % across, Math.floor(place / across)]
})
document.head.append(make("style", {
  textContent: data.sheets.map((sheet, i) =>
    `.s${i} { background-image: url(${sheet.address}) }`).join("\n"),
}))
let sheets = [] // each sheet at its own size, at a half, a quarter, …

async function load() {
  sheets = await Promise.all(data.sheets.map(async ({ address, wide, high }) => {
    const image = make("img", { src: address })
    await image.decode()
    const sizes = [image]
    for (let part = 2; side / part > 8; part *= 2) {
      const smaller = new OffscreenCanvas(Math.ceil(wide / part), Math.ceil(high / part))
      const paint = smaller.getContext("2d")
      paint.imageSmoothingQuality = "high"
      paint.drawImage(sizes.at(-1), 0, 0, smaller.width, smaller.height)
      sizes.push(smaller)
    }
    return sizes
  }))
  redraw()
}

/** The picture of a face as an element. */
function picture(face, pixels) {
  const [sheet, column, row] = spots[face]
  const { wide, high } = data.sheets[sheet]
  const element = make("span", { className: `face s${sheet}` })
  element.style.cssText = `width: ${pixels}px; height: ${pixels}px;
    background-size: ${wide / side * pixels}px ${high / side * pixels}px;
    background-position: ${-column * pixels}px ${-row * pixels}px`
  return element
}

// Drawing

const faceSize = () =>
  Math.min(Math.max(base * Math.sqrt(view.scale / view.fit), 3), Math.max(base, 1.6 * side))
const screen = (face) => [
  view.wide / 2 + (places[face][0] - view.x) * view.scale,
  view.high / 2 - (places[face][1] - view.y) * view.scale,
]

function drawFrame(face, size, frame, width) {
  const [x, y] = screen(face)
  brush.strokeStyle = frame
  brush.lineWidth = width
  brush.strokeRect(x - size / 2, y - size / 2, size, size)
}
function drawFace(face, size, frame, width) {
  const [x, y] = screen(face)
  const outside = x < -size || y < -size || x > view.wide + size || y > view.high + size
  if (outside || !sheets.length) { return }
  const [sheet, column, row] = spots[face]
  const sizes = sheets[sheet]
  const fitting = Math.floor(Math.log2(side / (size * devicePixelRatio)))
  const level = Math.min(Math.max(fitting, 0), sizes.length - 1)
  const edge = side * sizes[level].width / sizes[0].width
  const corner = [x - size / 2, y - size / 2]
  brush.drawImage(sizes[level], column * edge, row * edge, edge, edge, ...corner, size, size)
  if (frame) { drawFrame(face, size, frame, width) }
}

function draw() {
  brush.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0)
  brush.clearRect(0, 0, view.wide, view.high)
  const size = faceSize()
  for (let face = 0; face < count; face++) {
    drawFace(face, size, frames && frames[face], Math.min(3, size / 5))
  }
  if (chosen !== null) { drawChosen(size) }
  if (aimed !== null) {
    drawFace(aimed, Math.max(size, 34), "#ffffff", 9)
    drawFrame(aimed, Math.max(size, 34), "#2563eb", 4)
  }
}

/** The chosen face and its nearest over all others, which fade, but not beyond their colours. */
function drawChosen(size) {
  brush.fillStyle = `rgba(250, 250, 250, ${frames ? 0.5 : 0.82})`
  brush.fillRect(0, 0, view.wide, view.high)
  brush.strokeStyle = "rgba(245, 158, 11, 0.7)"
  brush.lineWidth = 2
  brush.beginPath()
  for (const face of near) {
    brush.moveTo(...screen(chosen))
    brush.lineTo(...screen(face))
  }
  brush.stroke()
  const large = Math.max(size, frames ? 46 : 34)
  const lit = [...near.toReversed().map((face) => [face, "#f59e0b"]), [chosen, "#2563eb"]]
  for (const [face, frame] of lit) {
    drawFace(face, large, frame, frames ? 13 : 3)
    if (frames) {
      drawFrame(face, large, "#ffffff", 8)
      drawFrame(face, large, frames[face], 6)
    }
  }
}

// A map too heavy to draw sixty times a second is moved as a picture and drawn when it rests.
const kept = { picture: new OffscreenCanvas(1, 1), view: null }
let waiting = false, moving = false, took = 0, drawnAt = 0, rest = 0

function redraw() {
  kept.view = null
  request()
}
function request() {
  if (!waiting) { requestAnimationFrame(frame) }
  waiting = true
}
function frame() {
  waiting = false
  const start = performance.now()
  if (moving && kept.view && start - drawnAt < (took < 30 ? 250 : 2000)) {
    moveKept()
    return
  }
  draw()
  drawnAt = performance.now()
  took = drawnAt - start
  kept.view = null
  if (count > 600 && sheets.length) {
    Object.assign(kept.picture, { width: canvas.width, height: canvas.height })
    kept.picture.getContext("2d").drawImage(canvas, 0, 0)
    kept.view = { ...view }
  }
}
function moveKept() {
  const grown = view.scale / kept.view.scale
  const left = view.wide / 2 * (1 - grown) + (kept.view.x - view.x) * view.scale
  const top = view.high / 2 * (1 - grown) - (kept.view.y - view.y) * view.scale
  brush.setTransform(1, 0, 0, 1, 0, 0)
  brush.clearRect(0, 0, canvas.width, canvas.height)
  brush.drawImage(kept.picture, left * devicePixelRatio, top * devicePixelRatio,
    canvas.width * grown, canvas.height * grown)
}
function moved() {
  flight++ // a person's hand ends a flight
  moving = true
  clearTimeout(rest)
  rest = setTimeout(() => { moving = false; request() }, 140)
  hover(null)
  request()
}

// Flights from one view to another

let flight = 0
function fly(change, milliseconds) {
  const own = ++flight
  const start = performance.now()
  const step = (now) => {
    if (own !== flight) { return }
    const share = still ? 1 : Math.min(Math.max((now - start) / milliseconds, 0), 1)
    change(share * share * (3 - 2 * share))
    redraw()
    if (share < 1) { requestAnimationFrame(step) }
  }
  requestAnimationFrame(step)
}
function flyTo(goal) {
  const from = { ...view }
  fly((share) => {
    view.scale = from.scale * (goal.scale / from.scale) ** share
    view.x = from.x + share * (goal.x - from.x)
    view.y = from.y + share * (goal.y - from.y)
  }, 450)
}

/** The view that shows the whole of the current map. */
function fitted() {
  let [left, right, bottom, top] = [Infinity, -Infinity, Infinity, -Infinity]
  for (const [x, y] of maps[current].places) {
    left = Math.min(left, x)
    right = Math.max(right, x)
    bottom = Math.min(bottom, y)
    top = Math.max(top, y)
  }
  const room = (length) => Math.max(length - base - 48, 40)
  const across = room(view.wide) / Math.max(right - left, 0.05)
  view.fit = Math.min(across, room(view.high) / Math.max(top - bottom, 0.05))
  return { x: (left + right) / 2, y: (bottom + top) / 2, scale: view.fit }
}

// Choosing a face

function card(face, similarity) {
  const about = make("span", { className: "about" },
    make("b", {}, names[face]), make("small", {}, details[face]))
  if (similarity !== undefined) {
    const bar = make("u", {})
    bar.style.width = `${Math.max(0, 100 * similarity)}%`
    about.append(make("i", {}, bar), make("small", {}, `similarity ${similarity.toFixed(3)}`))
  }
  return make("button", { className: "card", onclick: () => find(face) }, picture(face, 56), about)
}
function choose(face) {
  chosen = face
  near = face === null || !data.near.length ? [] : data.near[face]
  const heading = near.length ? [make("h3", {}, "Nearest in the embedding")] : []
  const cards = near.map((other, i) => card(other, data.similarities[face][i]))
  by("panel").replaceChildren(...face === null ? [hint] : [card(face), ...heading, ...cards])
  by("panel").scrollTop = 0
  redraw()
}
/** Choose a face and fly to it and its nearest. */
function find(face) {
  choose(face)
  const [x, y] = places[face]
  const far = near.map((other) =>
    Math.max(Math.abs(places[other][0] - x), Math.abs(places[other][1] - y)))
  const room = Math.min(view.wide, view.high) / 2 - 40
  const scale = Math.min(room / Math.max(0.02, ...far), 6 * view.fit)
  flyTo({ x, y, scale: Math.max(view.fit, scale) })
}

// The mouse, fingers and keys

function faceAt(x, y) {
  const half = faceSize() / 2
  const over = (face, least) => {
    const [left, top] = screen(face)
    return Math.max(Math.abs(left - x), Math.abs(top - y)) <= Math.max(half, least)
  }
  const lit = chosen === null ? [] : [chosen, ...near]
  const found = lit.find((face) => over(face, 17))
  if (found !== undefined) { return found }
  for (let face = count - 1; face >= 0; face--) {
    if (over(face, 4)) { return face }
  }
  return null
}
function hover(face) {
  canvas.style.cursor = face === null ? "" : "pointer"
  if (face === hovered) { return }
  hovered = face
  const tip = by("tip")
  tip.hidden = face === null
  if (face === null) { return }
  tip.replaceChildren(picture(face, 128), make("b", {}, names[face]),
    make("small", {}, details[face]))
  const [x, y] = screen(face)
  const gap = Math.max(faceSize(), face === aimed ? 34 : 0) / 2 + 10
  tip.style.left = `${x > view.wide / 2 ? x - gap - 148 : x + gap}px`
  tip.style.top = `${Math.min(Math.max(y - 90, 4), view.high - 196)}px`
}
function zoom(factor, x, y) {
  const scale = Math.min(Math.max(view.scale * factor, view.fit / 4), view.fit * 60)
  view.x += (x - view.wide / 2) * (1 / view.scale - 1 / scale)
  view.y += (view.high / 2 - y) * (1 / view.scale - 1 / scale)
  view.scale = scale
  moved()
}

const touching = new Map() // where each finger, or the pressed mouse, was last
let travelled = 0
const within = (event) => {
  const area = canvas.getBoundingClientRect()
  return [event.clientX - area.left, event.clientY - area.top]
}
canvas.addEventListener("wheel", (event) => {
  event.preventDefault()
  zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.04 : 0.0016)), ...within(event))
}, { passive: false })
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
    const [, other] = [...touching].find(([id]) => id !== event.pointerId)
    const apart = (at) => Math.max(Math.hypot(at[0] - other[0], at[1] - other[1]), 1)
    zoom(apart([x, y]) / apart(last), ...other)
  } else if (travelled > 4) {
    view.x -= dx / view.scale
    view.y += dy / view.scale
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
canvas.addEventListener("focus", () => { // Tab lands on the chosen face, or in the middle
  if (canvas.matches(":focus-visible")) { aim(chosen ?? nearest([view.wide / 2, view.high / 2])) }
})
canvas.addEventListener("blur", () => aim(null))
canvas.addEventListener("pointerdown", () => aim(null))
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }
canvas.addEventListener("keydown", (event) => {
  const arrow = ARROWS[event.key]
  if (arrow) {
    event.preventDefault()
    const middle = [view.wide / 2, view.high / 2]
    aim(aimed === null ? nearest(middle) : nearest(screen(aimed), arrow) ?? aimed)
  } else if ((event.key === "Enter" || event.key === " ") && aimed !== null) {
    event.preventDefault()
    choose(aimed)
    hover(null)
  }
})

/** The face nearest to a point on the screen, or the nearest that lies to one side of it. */
function nearest([x, y], side = null) {
  let best = null, least = Infinity
  for (let face = 0; face < count; face++) {
    const [dx, dy] = [screen(face)[0] - x, screen(face)[1] - y]
    const along = side ? dx * side[0] + dy * side[1] : Math.hypot(dx, dy)
    const across = side ? Math.abs(dx * side[1] + dy * side[0]) : 0
    if (side && (face === aimed || along < 0.01 || across > along)) { continue }
    if (along + 2 * across < least) { [best, least] = [face, along + 2 * across] }
  }
  return best
}
/** Show a face as the one that the arrow keys are at; the map moves if it lies at the edge. */
function aim(face) {
  if (face === aimed) { return }
  aimed = face
  hover(null)
  if (face !== null) {
    const [x, y] = screen(face)
    const inner = (at, length) => Math.min(Math.max(at, 40), length - 40)
    view.x += (x - inner(x, view.wide)) / view.scale
    view.y -= (y - inner(y, view.high)) / view.scale
    hover(face)
  }
  redraw()
}
canvas.addEventListener("dblclick", () => flyTo(fitted()))
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { choose(null); by("search").value = ""; suggest() }
  if (event.target.tagName === "INPUT") { return }
  const middle = [view.wide / 2, view.high / 2]
  if (event.key === "+" || event.key === "=") { zoom(1.4, ...middle) }
  if (event.key === "-") { zoom(1 / 1.4, ...middle) }
  if (event.key === "0") { flyTo(fitted()) }
})

// The search

const searched = names.map((name, i) => `${name} ${details[i]}`.toLowerCase())
function suggest() {
  const wanted = by("search").value.trim().toLowerCase()
  const found = []
  for (let face = 0; wanted && face < count && found.length < 12; face++) {
    if (searched[face].includes(wanted)) { found.push(face) }
  }
  found.sort((a, b) => (names[b].toLowerCase() === wanted) - (names[a].toLowerCase() === wanted))
  by("found").replaceChildren(...found.map((face) =>
    make("button", { onclick: () => take(face) }, picture(face, 28),
      make("span", {}, `${names[face]} `, make("small", {}, details[face])))))
  return found
}
function take(face) {
  by("found").replaceChildren()
  if (face !== undefined) { by("search").value = names[face]; find(face) }
}
by("search").addEventListener("input", suggest)
by("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") { take(suggest()[0]) }
})

// Layouts, size and colours

function switchTo(number) {
  switches[current].className = ""
  switches[number].className = "on"
  by("foot").textContent = maps[number].line
  current = number
  const from = places.map((place) => [...place])
  const [start, goal] = [{ ...view }, fitted()]
  fly((share) => {
    maps[number].places.forEach(([x, y], i) => {
      places[i][0] = from[i][0] + share * (x - from[i][0])
      places[i][1] = from[i][1] + share * (y - from[i][1])
    })
    for (const part of ["x", "y", "scale"]) {
      view[part] = start[part] + share * (goal[part] - start[part])
    }
  }, 700)
}
const switches = maps.map((map, number) =>
  make("button", { onclick: () => switchTo(number) }, map.title))
if (maps.length > 1) { by("maps").append(...switches) }
switches[0].className = "on"
by("foot").textContent = maps[0].line

by("size").addEventListener("input", (event) => {
  base = Number(event.target.value)
  redraw()
})

by("colouring").hidden = !data.attributes.length
by("colour").append(new Option("nothing"), ...data.attributes.map(({ name }) => new Option(name)))
by("colour").addEventListener("change", (event) => {
  const { palette, groups } = data.attributes[event.target.selectedIndex - 1] ?? { palette: [] }
  frames = groups ? groups.map((group) => palette[group][1]) : null
  by("legend").replaceChildren(...palette.slice(0, 24).map(([text, colour]) => {
    const patch = make("s", {})
    patch.style.background = colour
    return make("span", {}, patch, text)
  }))
  redraw()
})

let before = true
new ResizeObserver(() => {
  const area = canvas.parentElement.getBoundingClientRect()
  view.wide = area.width
  view.high = area.height
  canvas.width = Math.max(1, Math.round(area.width * devicePixelRatio))
  canvas.height = Math.max(1, Math.round(area.height * devicePixelRatio))
  if (before && area.width > 0) {
    before = false
    const room = 0.85 * Math.min(view.wide, view.high) // so that faces are apart on any screen
    base = Math.min(Math.max(room / Math.sqrt(count), 6), 64)
    by("size").value = base
    Object.assign(view, fitted())
    if (data.chosen !== null) { choose(data.chosen) }
  }
  kept.view = null
  draw()
}).observe(canvas.parentElement)
load().then(() => { window.facemap = { screen, view, names } })
