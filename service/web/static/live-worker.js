// One event stream for all tabs of a browser, which allows six connections to a host: a shared worker holds it for the
// jobs that visible tabs show, and hands each tab the parts of its page. A tab without shared workers loads this file
// itself and has a stream of its own.
"use strict";

const RETRY_MS = [500, 1000, 2000, 5000];
const SILENT_MS = 45_000; // a visible tab says every 15 s that it is there; one that has crashed says nothing

// The stream for some jobs, opened again until all have ended. `tell` is called with what there is to tell.
class JobStream {
  constructor(tell) {
    this.tell = tell;
    this.jobs = "";
    this.parts = new Map();
  }

  // Show these jobs from now on, and no others.
  show(jobs) {
    const wanted = [...new Set(jobs)].sort().map((job) => `job=${job}`).join("&");
    if (wanted === this.jobs) return;
    this.close();
    this.jobs = wanted;
    if (wanted) this.open(jobs, 0);
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
    this.jobs = "";
    this.parts.clear();
  }

  open(jobs, failures) {
    const source = new EventSource(`/live?${this.jobs}`);
    this.source = source;
    source.onopen = () => this.tell({ state: "connected" });
    source.addEventListener("end", () => source.close());
    source.addEventListener("signed-out", () => this.signedOut());
    source.addEventListener("away", () => this.tell({ state: "away" }));
    source.addEventListener("back", () => this.tell({ state: "connected" }));
    source.onerror = () => { source.close(); this.lost(jobs, failures); };
    for (const job of new Set(jobs)) {
      source.addEventListener(job, (event) => {
        failures = 0;
        this.parts.set(job, event.data);
        this.tell({ job, part: event.data });
      });
    }
  }

  // Whoever asks next, perhaps after signing in again, opens the stream anew.
  signedOut() {
    this.close();
    this.tell({ state: "signed-out" });
  }

  async lost(jobs, failures) {
    const { source } = this;
    const answer = await fetch("/session/v1/jobs?limit=1", { headers: { Accept: "application/json" } }).catch(() => null);
    if (this.source !== source) return; // other jobs are shown meanwhile
    if (answer?.status === 401) {
      this.signedOut();
      return;
    }
    this.tell({ state: "lost" });
    const wait = RETRY_MS[Math.min(failures, RETRY_MS.length - 1)];
    this.timer = setTimeout(() => this.open(jobs, failures + 1), wait);
  }
}

if (typeof SharedWorkerGlobalScope !== "undefined" && self instanceof SharedWorkerGlobalScope) {
  const tabs = new Map(); // port → { jobs, heard }
  let state = null; // what was told of the connection last
  const stream = new JobStream((message) => {
    state = message.state ?? state;
    for (const [port, tab] of tabs) {
      if (!message.job || tab.jobs.includes(message.job)) port.postMessage(message);
    }
  });

  const show = () => stream.show([...tabs.values()].flatMap((tab) => tab.jobs));

  self.onconnect = ({ ports: [port] }) => {
    port.onmessage = ({ data: { jobs } }) => {
      const before = tabs.get(port)?.jobs ?? [];
      if (jobs.length) tabs.set(port, { jobs, heard: Date.now() });
      else tabs.delete(port);
      show();
      if (jobs.length && !before.length && state) port.postMessage({ state });
      for (const job of jobs) { // what other tabs have been shown already
        if (!before.includes(job) && stream.parts.has(job)) port.postMessage({ job, part: stream.parts.get(job) });
      }
    };
  };

  setInterval(() => {
    for (const [port, tab] of tabs) if (Date.now() - tab.heard > SILENT_MS) tabs.delete(port);
    show();
  }, SILENT_MS / 3);
}
