"""Style and script of a report: without the script, all is there and nothing moves."""

STYLE = """
nav a { margin-right: 1rem; }
.quiet, small { color: var(--quiet); font-weight: normal; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
th { font-weight: 500; } thead th, .facts th { color: var(--quiet); white-space: nowrap; }
.settings th, .settings td { font: 13px ui-monospace, monospace; } .settings td:last-child { color: var(--quiet); }
.numbers td { font-variant-numeric: tabular-nums; }
.state { font-size: .8rem; padding: .1rem .6rem; border-radius: 1rem; background: var(--soft); vertical-align: middle; }
.state.done { background: var(--good); color: #fff; } .state.failed { background: var(--bad); color: #fff; }
.state.running { background: var(--one); color: var(--paper); }
progress { width: 100%; height: 6px; accent-color: var(--one); }
.warnings { border-left: 4px solid var(--two); padding: .5rem .5rem .5rem 2rem; margin: 0; background: var(--soft); }
.warnings li { white-space: pre-line; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); gap: 1rem 2rem; }
.chart h3 { margin: 0; } .chart svg { width: 100%; height: auto; display: block; touch-action: pan-y; }
.chart text { font: 12px system-ui, sans-serif; fill: var(--quiet); } .chart path { fill: none; stroke-width: 1.6; }
.chart .grid { stroke: var(--line); stroke-width: 1; } .chart .restart { stroke: var(--quiet); stroke-dasharray: 4 4; }
.chart .validation { stroke: var(--ink); stroke-width: 2; }
[hidden] { display: none !important; }
.chart .cursor { stroke: var(--ink); stroke-width: 1; }
.one { --own: var(--one); } .two { --own: var(--two); } .three { --own: var(--three); } .four { --own: var(--four); }
.raw { --own: var(--quiet); } g.raw > path:not(.band) { opacity: .45; stroke-width: 1; }
g path { stroke: var(--own); } g circle { fill: var(--own); } g path.band { fill: var(--own); stroke: none; opacity: .15; }
circle.star { fill: none; stroke: var(--good); stroke-width: 2.5; }
text.star { fill: var(--good); font-weight: 600; paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
.legend { font-size: 12px; margin: 0; min-height: 1.6em; }
.legend span::before { content: ""; display: inline-block; width: .9em; height: 3px; margin: 0 .35em .2em 0;
  background: var(--own); } .legend span { margin-right: 1rem; } .legend output { color: var(--ink); float: right; }
.slider { position: sticky; top: 0; background: var(--paper); padding: .5rem 0; z-index: 1; }
.slider input[type=range] { width: min(60vw, 30rem); vertical-align: middle; }
.prompt summary { font-weight: 500; overflow-wrap: anywhere; cursor: pointer; }
.strip { display: flex; gap: .5rem; overflow-x: auto; padding: .25rem 0 .75rem; }
.strip figure { flex: 0 0 min(12rem, 44vw); } .strip img, .strip video { width: 100%; height: auto; display: block; }
.single { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
.single .strip figure { flex: 1 0 100%; } .single .strip figure:not(.now) { display: none; }
.crops { grid-template-columns: repeat(auto-fill, minmax(min(100%, 11rem), 1fr)); }
pre { background: var(--soft); padding: .75rem; border-radius: 4px; }
footer { margin-top: 3rem; font-size: 12px; border-top: 1px solid var(--line); padding-top: .5rem; }
a { color: inherit; } :focus-visible { outline: 2px solid var(--one); outline-offset: 2px; }
@media (max-width: 40rem) { .chart text { font-size: 17px; } th, td { padding-right: .5rem; }
  .settings td:last-child, .settings th:nth-child(3) { display: none; } }
"""

SCRIPT = """
"use strict";
for (const chart of document.querySelectorAll(".chart")) {
  const svg = chart.querySelector("svg"), out = chart.querySelector("output"), cursor = chart.querySelector(".cursor");
  const left = +svg.dataset.left, right = +svg.dataset.right, steps = Math.max(1, +svg.dataset.steps);
  const lines = [...chart.querySelectorAll("g[data-points]")].map(g => ({name: g.dataset.name,
    points: g.dataset.points.split(" ").filter(Boolean).map(p => p.split(",").map(Number))})).filter(l => l.points.length);
  if (!lines.length) continue;
  const all = [...new Set(lines.flatMap(l => l.points.map(p => p[0])))].sort((a, b) => a - b);
  let at = all.length - 1;
  const show = () => {
    const step = all[at], x = left + (right - left) * step / steps;
    cursor.setAttribute("transform", `translate(${x} 0)`); cursor.removeAttribute("hidden");
    const near = l => l.points.reduce((a, b) => Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a);
    out.textContent = `step ${step}: ` + lines.map(l => (lines.length > 1 ? l.name + " " : "") + near(l)[1]).join(", ");
  };
  svg.addEventListener("pointermove", e => {
    const box = svg.getBoundingClientRect(), x = (e.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const step = (x - left) / (right - left) * steps;
    at = all.reduce((a, s, n) => Math.abs(s - step) < Math.abs(all[a] - step) ? n : a, 0); show();
  });
  svg.addEventListener("keydown", e => {
    const by = {ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9}[e.key];
    if (by === undefined) return;
    e.preventDefault(); at = Math.min(all.length - 1, Math.max(0, at + by)); show();
  });
  const hide = () => { cursor.setAttribute("hidden", ""); out.textContent = ""; };
  svg.addEventListener("pointerleave", hide); svg.addEventListener("blur", hide);
}
if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
  const seen = new IntersectionObserver(entries => entries.forEach(entry => {
    if (entry.isIntersecting) entry.target.play().catch(() => {}); else entry.target.pause();
  }));
  for (const video of document.querySelectorAll("video")) seen.observe(video);
}
const range = document.getElementById("step");
if (range) {
  const steps = JSON.parse(range.dataset.steps), all = document.getElementById("all");
  const prompts = [...document.querySelectorAll(".prompt")], box = document.createElement("div");
  prompts[0].before(box); box.append(...prompts);
  range.closest("p").hidden = false;
  const show = () => {
    const step = String(steps[range.value]);
    range.setAttribute("aria-valuetext", "step " + step);
    document.getElementById("shown").textContent = step;
    box.className = all.checked ? "" : "single";
    for (const figure of box.querySelectorAll("figure")) {
      figure.classList.toggle("now", figure.dataset.step === step);
    }
  };
  range.addEventListener("input", () => { all.checked = false; show(); });
  all.addEventListener("change", show); show();
}
"""
