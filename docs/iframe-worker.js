/* Search in pages that are opened from the disk: browsers start no worker from a file, so its script runs in a hidden frame. */
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      this.ready = new Promise(loaded => {
        const frame = document.createElement("iframe")
        frame.hidden = true
        frame.onload = () => {
          const inside = frame.contentWindow
          inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
          const script = inside.document.createElement("script")
          script.src = url
          script.onload = () => loaded(inside)
          inside.document.body.append(script)
        }
        document.body.append(frame)
      })
    }
    postMessage(data) {
      this.ready.then(inside => inside.dispatchEvent(new inside.MessageEvent("message", { data })))
    }
    terminate() {}
  }
}
