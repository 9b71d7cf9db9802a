// What all pages share: a note while the server does not answer, and ticks that outlive a list that is drawn anew.
"use strict";

const lost = document.getElementById("lost");
window.answered = (does) => { lost.hidden = does; };

document.body.addEventListener("htmx:sendError", () => window.answered(false));
document.body.addEventListener("htmx:afterRequest", (event) => { if (event.detail.xhr.status) window.answered(true); });

const compare = document.getElementById("compare");
if (compare) {
  const picked = new Set();
  const button = document.getElementById("compare-button");
  const show = () => {
    button.disabled = picked.size < 2;
    button.textContent = picked.size ? `Compare ${picked.size}` : "Compare";
  };
  compare.addEventListener("change", (event) => {
    if (event.target.name !== "run") return;
    picked[event.target.checked ? "add" : "delete"](event.target.value);
    show();
  });
  const restore = () => {
    for (const box of compare.querySelectorAll("input[name=run]")) box.checked = picked.has(box.value);
  };
  document.body.addEventListener("htmx:afterSwap", restore);
  compare.addEventListener("submit", (event) => {  // those that a search has hidden are compared, too
    event.preventDefault();
    location.href = "/compare?" + new URLSearchParams([...picked].map((run) => ["run", run]));
  });
  restore();
  show();
}

document.body.addEventListener("htmx:beforeSwap", (event) => {  // a log stays at its end, or where it was scrolled to
  const old = event.detail.target.querySelector("pre.log");
  window.logPlace = old && old.scrollTop + old.clientHeight < old.scrollHeight - 8 ? old.scrollTop : null;
});
document.body.addEventListener("htmx:afterSettle", (event) => {
  for (const log of event.detail.elt.querySelectorAll("pre.log")) log.scrollTop = window.logPlace ?? log.scrollHeight;
});
