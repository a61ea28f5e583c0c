"""What the photo view does in the browser, as JavaScript, and how it looks."""

SCRIPT = """
const PIECE = 2 * 1024 * 1024  // a notebook server closes the connection above 10 MiB a message

function part(tag, parent, className = "", text = "") {
  const made = document.createElement(tag)
  made.className = className
  made.textContent = text
  parent.append(made)
  return made
}

async function sendFiles(model, files) {
  const limit = model.get("largest_file")
  const about = files.map((file) => ({name: file.name, size: file.size}))
  model.send({kind: "begin", files: about})
  for (const [number, file] of files.entries()) {
    if (file.size > limit) { continue }
    for (let start = 0; start < file.size; start += PIECE) {
      const piece = await file.slice(start, start + PIECE).arrayBuffer()
      model.send({kind: "piece", number}, undefined, [piece])
    }
  }
  model.send({kind: "end"})
}

function picture(image, buffer) {
  if (image.src) { URL.revokeObjectURL(image.src) }
  if (buffer) { image.src = URL.createObjectURL(new Blob([buffer], {type: "image/jpeg"})) }
  else { image.removeAttribute("src") }
}

function place(box, [left, top, right, bottom]) {
  box.style.left = `${100 * left}%`
  box.style.top = `${100 * top}%`
  box.style.width = `${100 * (right - left)}%`
  box.style.height = `${100 * (bottom - top)}%`
}

function render({model, el}) {
  const root = part("div", el, "facelab-photo")
  const choose = part("button", root, "jupyter-button widget-button widget-upload")
  choose.type = "button"
  part("span", choose, "", "Choose photos")
  part("small", choose, "", "or drop them here")
  const input = part("input", root)
  input.type = "file"
  input.multiple = true
  input.accept = "image/*,.heic,.heif"
  const views = part("div", root, "views")
  const whole = part("figure", views, "whole")
  const stage = part("div", whole, "stage")
  const image = part("img", stage)
  image.draggable = false
  image.alt = "the photo"
  const overlay = part("div", stage, "overlay")
  const caption = part("figcaption", whole)
  const cut = part("figure", views, "cut")
  const face = part("img", cut)
  face.alt = "the face as the network sees it"
  const faceCaption = part("figcaption", cut)

  const onMessage = (message, buffers) => {
    if (message.kind === "photo") {
      picture(image, message.filled ? buffers[0] : null)
      whole.hidden = !message.filled
      caption.textContent = message.caption
      overlay.replaceChildren()
      message.boxes.forEach((box, number) => {
        const frame = part("button", overlay, "box")
        frame.classList.toggle("current", number === message.current)
        frame.type = "button"
        frame.title = `face ${number + 1}`
        place(frame, box)
        if (message.boxes.length > 1) { part("span", frame, "", String(number + 1)) }
        frame.addEventListener("keydown", (event) => {
          if (event.key === "Enter" || event.key === " ") { model.send({kind: "face", number}) }
        })
      })
    } else if (message.kind === "cut") {
      picture(face, message.filled ? buffers[0] : null)
      cut.hidden = !message.filled
      faceCaption.textContent = message.caption
    }
  }
  model.on("msg:custom", onMessage)

  choose.addEventListener("click", () => { input.value = ""; input.click() })
  input.addEventListener("change", () => sendFiles(model, [...input.files]))
  root.addEventListener("dragover", (event) => {
    event.preventDefault()
    event.stopPropagation()
    root.classList.add("over")
  })
  root.addEventListener("dragleave", () => root.classList.remove("over"))
  root.addEventListener("drop", (event) => {
    event.preventDefault()
    event.stopPropagation()
    root.classList.remove("over")
    if (event.dataTransfer.files.length) { sendFiles(model, [...event.dataTransfer.files]) }
  })

  let drawn = null
  const at = (event) => {
    const area = image.getBoundingClientRect()
    const within = (value) => Math.min(Math.max(value, 0), 1)
    return [within((event.clientX - area.left) / area.width),
      within((event.clientY - area.top) / area.height)]
  }
  const corners = (event) => {
    const [x, y] = at(event)
    const {x: x0, y: y0} = drawn
    return [Math.min(x, x0), Math.min(y, y0), Math.max(x, x0), Math.max(y, y0)]
  }
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) { return }
    event.preventDefault()
    stage.setPointerCapture(event.pointerId)
    const [x, y] = at(event)
    const boxes = [...overlay.querySelectorAll(".box:not(.drawn)")]
    const under = boxes.findIndex((box) => {
      const area = box.getBoundingClientRect()
      return event.clientX >= area.left && event.clientX <= area.right
        && event.clientY >= area.top && event.clientY <= area.bottom
    })
    drawn = {x, y, under, far: false, clientX: event.clientX, clientY: event.clientY,
      frame: part("div", overlay, "box current drawn")}
  })
  stage.addEventListener("pointermove", (event) => {
    if (drawn === null) { return }
    const moved = Math.hypot(event.clientX - drawn.clientX, event.clientY - drawn.clientY)
    drawn.far = drawn.far || moved > 6
    place(drawn.frame, drawn.far ? corners(event) : [drawn.x, drawn.y, drawn.x, drawn.y])
  })
  stage.addEventListener("pointerup", (event) => {
    if (drawn === null) { return }
    if (drawn.far) { model.send({kind: "box", box: corners(event)}) }
    else if (drawn.under >= 0) { model.send({kind: "face", number: drawn.under}) }
    drawn.frame.remove()
    drawn = null
  })
  stage.addEventListener("pointercancel", () => {
    if (drawn !== null) { drawn.frame.remove() }
    drawn = null
  })

  whole.hidden = cut.hidden = true
  model.send({kind: "ready"})
  return () => {
    model.off("msg:custom", onMessage)
    picture(image, null)
    picture(face, null)
  }
}

export default {render}
"""

LOOKS = """
.facelab-photo { font: 14px system-ui, sans-serif; color: var(--jp-ui-font-color1, #111827);
  padding: 10px; border: 1.5px dashed transparent; border-radius: 12px; }
.facelab-photo.over { border-color: #2563eb; background: rgba(37, 99, 235, .07); }
.facelab-photo input[type=file] { display: none; }
.facelab-photo .widget-upload { display: inline-flex; align-items: baseline; gap: 8px;
  width: auto; height: auto; padding: 8px 16px; border: 0; border-radius: 8px; cursor: pointer;
  font: inherit; line-height: 1.4; color: #ffffff; background: #2563eb; }
.facelab-photo .widget-upload:hover { background: #1d4ed8; }
.facelab-photo .widget-upload small { opacity: .85; }
.facelab-photo .views { display: flex; flex-wrap: wrap; gap: 16px; margin-top: 10px; }
.facelab-photo .views:not(:has(figure:not([hidden]))) { margin: 0; }
.facelab-photo figure { margin: 0; }
.facelab-photo figure[hidden] { display: none; }
.facelab-photo img { display: block; border-radius: 12px; max-width: 100%; }
.facelab-photo .whole img { max-height: 300px; max-width: 460px; }
.facelab-photo .cut img { width: 240px; height: 240px; }
.facelab-photo figcaption { color: var(--jp-ui-font-color2, #6b7280); padding-top: 4px;
  font-size: 12px; }
.facelab-photo .stage { position: relative; display: inline-block; cursor: crosshair;
  touch-action: none; user-select: none; overflow: hidden; border-radius: 12px; }
.facelab-photo .overlay { position: absolute; inset: 0; }
.facelab-photo .box { position: absolute; box-sizing: border-box; padding: 0; margin: 0;
  background: transparent; border: 2px solid rgba(255, 255, 255, .95); border-radius: 6px;
  box-shadow: 0 0 0 1px rgba(17, 24, 39, .35); cursor: pointer; }
.facelab-photo .box.current { border: 3px solid #2563eb; }
.facelab-photo .box span { position: absolute; left: -2px; top: -2px; min-width: 18px;
  padding: 0 4px; border-radius: 6px 0 6px 0; font: 600 12px/18px system-ui, sans-serif;
  color: #ffffff; background: rgba(17, 24, 39, .7); text-align: center; }
.facelab-photo .box.current span { background: #2563eb; }
"""
