// Parts of a page that change by themselves while somebody looks: a job as it happens, and the list of jobs.
"use strict";

const HERE_MS = 15_000, REFRESH_MS = 5_000;
const SAID = {
  connected: "",
  lost: "The connection is lost; trying again.",
  away: "The database of the service does not answer; this page goes on by itself when it does.",
  "signed-out": "Your session has ended: load the page again to enter your key.",
};

const connection = document.createElement("p");
connection.id = "connection";
connection.setAttribute("role", "status");
document.getElementById("content").append(connection);

function say(state) {
  connection.textContent = SAID[state];
  document.body.dataset.connection = state;
}

// Put a part in the place of an older one; focus, scrolling, and what the reader has opened stay as they are.
async function replace(element, part) {
  const fresh = document.createElement("template");
  fresh.innerHTML = part;
  fresh.content.querySelectorAll("time[datetime]").forEach(fedlas.inZone);
  for (const { id } of element.querySelectorAll("details[id][open]")) {
    fresh.content.querySelector(`#${id}`)?.setAttribute("open", "");
  }
  await htmx.swap({ sourceElement: element, target: element, swap: "innerMorph", text: fresh.innerHTML });
}

const live = document.querySelector("[data-live]");
if (live) {
  const job = live.dataset.live;
  let latest = Promise.resolve();
  const take = ({ state, part }) => {
    if (state) say(state);
    if (part) {
      latest = latest.then(() => replace(live, part)).then(() => fedlas.announce(document.getElementById("says").textContent));
    }
  };
  const say_jobs = connected(live.dataset.worker, take);
  const show = () => say_jobs(document.hidden ? [] : [job]);
  document.addEventListener("visibilitychange", show);
  addEventListener("pagehide", () => say_jobs([]));
  addEventListener("pageshow", show);
  setInterval(() => document.hidden || show(), HERE_MS);
}

// A way to say which jobs this tab shows; `take` is called with what is told of them.
function connected(script, take) {
  if (window.SharedWorker) {
    const { port } = new SharedWorker(script, { name: "fedlas-live" });
    port.onmessage = ({ data }) => take(data);
    return (jobs) => port.postMessage({ jobs });
  }
  const own = new Promise((resolve) => {
    const loaded = document.createElement("script");
    loaded.src = script;
    loaded.onload = () => resolve(new JobStream(take));
    document.head.append(loaded);
  });
  return (jobs) => own.then((stream) => stream.show(jobs));
}

const list = document.querySelector("[data-refresh]");
if (list) {
  setInterval(async () => {
    if (document.hidden) return;
    const answer = await fetch(location.href, { headers: { "HX-Request": "true", Accept: "text/html" } }).catch(() => null);
    say(answer?.ok ? "connected" : answer?.status === 401 ? "signed-out" : "lost");
    if (answer?.ok) await replace(list, await answer.text());
  }, REFRESH_MS);
}
