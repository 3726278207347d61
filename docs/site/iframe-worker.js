// The search runs in a worker, which a browser does not start from a folder (file://).
// There, a hidden frame does a worker's work: it loads the same script, and gets and
// gives the same messages.
(() => {
  if (location.protocol !== "file:") return;

  const load = (inner, url) =>
    new Promise((resolve, reject) => {
      const script = inner.document.createElement("script");
      script.src = url;
      script.onload = resolve;
      script.onerror = () => reject(new Error(`cannot load ${url}`));
      inner.document.head.appendChild(script);
    });

  // By this name the theme's script knows that it runs in a frame.
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      this.inner = this.frame.contentWindow;
      this.inner.postMessage = (data) =>
        this.dispatchEvent(new MessageEvent("message", { data }));
      this.inner.importScripts = (...urls) =>
        urls.reduce(
          (before, next) => before.then(() => load(this.inner, next)),
          Promise.resolve(),
        );
      this.ready = load(this.inner, url);
    }

    postMessage(data) {
      this.ready.then(() =>
        this.inner.dispatchEvent(new MessageEvent("message", { data })),
      );
    }

    terminate() {
      this.frame.remove();
    }
  };
  window.Worker = window.IFrameWorker;
})();
