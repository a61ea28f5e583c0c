// The photo view in the browser: choose or drop files, choose a face, draw a box.

const LARGEST = 100 * 1024 * 1024  // bytes of a file
const PIECE = 2 * 1024 * 1024  // a notebook server closes the connection above 10 MiB a message

function part(tag, parent, className = "", text = "") {
  const made = document.createElement(tag)
  made.className = className
  made.textContent = text
  parent.append(made)
  return made
}

async function sendFiles(model, files) {
  if (files.length === 0) { return }
  model.send({kind: "begin", value: files.map((file) => file.name)})
  for (const [index, file] of files.entries()) {
    if (file.size > LARGEST) { continue }
    for (let start = 0; start < file.size; start += PIECE) {
      const piece = await file.slice(start, start + PIECE).arrayBuffer()
      model.send({kind: "piece", value: index}, undefined, [piece])
    }
  }
  model.send({kind: "end"})
}

function picture(image, buffer) {
  if (image.src) { URL.revokeObjectURL(image.src) }
  if (buffer) { image.src = URL.createObjectURL(new Blob([buffer], {type: "image/jpeg"})) }
  else { image.removeAttribute("src") }
}

function place(box, [left, top, right, bottom]) {  // shares of the photo's sides
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
  const crop = part("figure", views, "crop")
  const face = part("img", crop)
  face.alt = "the face as the network sees it"
  const faceCaption = part("figcaption", crop)

  let width = 1, height = 1  // of the photo, in its own pixels
  const onMessage = (message, buffers) => {
    if (message.kind === "photo") {
      picture(image, buffers?.[0])
      whole.hidden = !message.size
      if (message.size) { [width, height] = message.size }
      caption.textContent = message.caption
      overlay.replaceChildren()
      message.boxes.forEach(([left, top, right, bottom], index) => {
        const frame = part("button", overlay, "box")
        frame.classList.toggle("current", index === message.current)
        frame.type = "button"
        frame.title = `face ${index + 1}`
        place(frame, [left / width, top / height, right / width, bottom / height])
        if (message.boxes.length > 1) { part("span", frame, "", String(index + 1)) }
        frame.addEventListener("keydown", (event) => {
          if (event.key === "Enter" || event.key === " ") { model.send({kind: "face", value: index}) }
        })
      })
    } else if (message.kind === "crop") {
      picture(face, buffers?.[0])
      crop.hidden = !message.size
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
    if (drawn.far) {
      const [left, top, right, bottom] = corners(event)
      const value = [left * width, top * height, right * width, bottom * height]
      model.send({kind: "box", value})
    } else if (drawn.under >= 0) { model.send({kind: "face", value: drawn.under}) }
    drawn.frame.remove()
    drawn = null
  })
  stage.addEventListener("pointercancel", () => {
    if (drawn !== null) { drawn.frame.remove() }
    drawn = null
  })

  whole.hidden = crop.hidden = true
  model.send({kind: "ready"})
  return () => {
    model.off("msg:custom", onMessage)
    picture(image)
    picture(face)
  }
}

export default {render}
