// What every page does where there is a script: times in the reader's zone, buttons that copy, announcements.
"use strict";

const fedlas = {
  // Tell a screen reader what has changed; the same sentence is told once.
  announce(sentence) {
    const announcer = document.getElementById("announcer");
    if (announcer.textContent !== sentence) announcer.textContent = sentence;
  },

  // Call with every element that a selector finds, now and in all parts of the page that come later.
  onEach(selector, prepare) {
    const within = (root) => {
      if (root.matches?.(selector)) prepare(root);
      root.querySelectorAll?.(selector).forEach(prepare);
    };
    within(document);
    new MutationObserver((changes) => {
      for (const change of changes) change.addedNodes.forEach(within);
    }).observe(document.body, { childList: true, subtree: true });
  },
};

const zoned = (timeStyle) => new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle });
const formats = { exact: zoned("medium"), usual: zoned("short") };

// Write a time in the reader's zone.
fedlas.inZone = (time) => {
  const at = new Date(time.dateTime);
  if (Number.isNaN(at.getTime())) return;
  time.title = time.dateTime;
  time.textContent = formats["seconds" in time.dataset ? "exact" : "usual"].format(at);
};

fedlas.onEach("time[datetime]", fedlas.inZone);

fedlas.onEach("button[data-copy]", (button) => {
  if (!navigator.clipboard) return; // browsers offer it on loopback and behind TLS only
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.closest("figure").querySelector("pre").innerText);
    fedlas.announce("Copied.");
    button.textContent = "Copied";
  });
});
