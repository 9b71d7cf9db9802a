// Curves of one run, live, or of several over each other. Points are bounded: the server means what lies between.
"use strict";

(() => {
  const box = document.querySelector(".charts");
  if (!box) return;
  const POINTS = 800, MOST_POINTS = 2400;
  const CHARTS = [
    ["loss", "Loss", true], ["held_out", "Held-out loss by noise level", false], ["grad_norm", "Gradient norm", true],
    ["lr", "Learning rate", false], ["tokens_per_second", "Tokens a second", false], ["peak_memory_gb", "Memory, GB", false],
  ];
  const logScale = document.getElementById("log-scale"), smoothing = document.getElementById("smooth");
  const charts = new Map();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const shown = (value) => (value == null ? "–" : Number(value.toPrecision(4)).toString());

  const smooth = (values) => {
    const weight = Number(smoothing.value);
    let mean = 0, total = 0;
    return values.map((value) => {
      if (value != null) { mean = weight * mean + (1 - weight) * value; total = weight * total + (1 - weight); }
      return total ? mean / total : null;
    });
  };

  const place = (key, title) => {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    const name = document.createElement("span"), now = document.createElement("output"), plot = document.createElement("div");
    figure.className = key === "loss" ? "chart big" : "chart";
    figure.dataset.key = key;
    figure.style.order = String(CHARTS.findIndex(([own]) => own === key));
    name.textContent = title;
    plot.className = "plot";
    plot.setAttribute("role", "img");
    caption.append(name, now);
    figure.append(caption, plot);
    box.append(figure);
    return { figure, now, plot };
  };

  const options = (chart, series, bands) => {
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const isLog = logScale.checked && chart.key !== "lr";
    return {
      width: chart.plot.clientWidth || 300, height: chart.figure.classList.contains("big") ? 240 : 170,
      cursor: { sync: { key: "step" }, points: { size: 6 } },
      scales: { x: { time: false }, y: isLog ? { distr: 3 } : {} },
      axes: [{ ...axis, size: 26 }, { ...axis, size: 58, values: (_, ticks) => ticks.map((v) => (v == null ? "" : shown(v))) }],
      series: [{ label: "step", value: (_, v) => (v == null ? "–" : String(v)) }, ...series], bands,
      legend: { live: true },
    };
  };

  const line = (label, stroke, more) => ({
    label, stroke, width: 1.75, spanGaps: true, value: (_, v) => shown(v),
    points: { show: (plot, index) => plot.data[index].filter((v) => v != null).length < 40, size: 4 }, ...more,
  });

  const draw = (key, title, data, series, bands, now) => {
    if (!charts.has(key)) charts.set(key, { key, ...place(key, title), plotted: null, shape: "" });
    const chart = charts.get(key);
    const clean = logScale.checked && key !== "lr" ? data.map((c, i) => (i ? c.map((v) => (v > 0 ? v : null)) : c)) : data;
    const shape = JSON.stringify([series.map((s) => [s.label, s.stroke]), logScale.checked]);
    chart.now.textContent = now;
    chart.plot.setAttribute("aria-label", `${title}: ${now || "no value yet"}`);
    if (chart.plotted && chart.shape === shape) { chart.plotted.setData(clean); return; }
    if (chart.plotted) chart.plotted.destroy();
    chart.shape = shape;
    chart.plot.classList.toggle("banded", bands.length > 0);
    chart.plotted = new uPlot(options(chart, series, bands), clean, chart.plot);
  };

  const last = (values) => values.findLast((value) => value != null);

  const drawRun = (run) => {
    document.getElementById("no-curves").hidden = run.steps.length > 0;
    for (const [key, title, isSmooth] of CHARTS) {
      if (key === "held_out") {
        const found = run.held_out, names = Object.keys(found.bins);
        if (!found.steps.length) continue;
        const series = [line("all", colour("--s0"), { width: 2.5 }), ...names.map((n, i) => line(n, colour(`--s${i + 1}`), { width: 1 }))];
        draw(key, title, [found.steps, found.loss, ...names.map((n) => found.bins[n])], series, [], shown(last(found.loss)));
      } else if (run.mean[key] && run.steps.length) {
        const mean = run.mean[key], faint = colour("--s0") + "38";
        const top = isSmooth ? smooth(mean) : mean;
        const bounds = [line("high", "transparent", { width: 0, points: { show: false } }), line("low", "transparent", { width: 0, points: { show: false } })];
        draw(key, title, [run.steps, top, run.high[key], run.low[key]], [line(isSmooth ? "smooth" : "mean", colour("--s0")), ...bounds],
          [{ series: [2, 3], fill: faint }], shown(last(mean)));
      }
    }
  };

  const fetchCurves = async (name) => {
    const answer = await fetch("/run/curves?" + new URLSearchParams({ run: name, points: POINTS }));
    if (!answer.ok) throw new Error(String(answer.status));
    return answer.json();
  };

  const append = (run, fresh) => {  // what is fetched meanwhile is here already
    const known = run.steps.length, end = run.steps.at(-1) ?? -1, from = fresh.steps.filter((step) => step <= end).length;
    run.steps.push(...fresh.steps.slice(from));
    for (const kind of ["mean", "low", "high"]) {
      for (const key of new Set([...Object.keys(run[kind]), ...Object.keys(fresh[kind])])) {
        const column = (run[kind][key] ??= []);
        while (column.length < known) column.push(null);
        column.push(...(fresh[kind][key] ?? fresh.steps.map(() => null)).slice(from));
      }
    }
    run.held_out = fresh.held_out;
    run.rewinds = fresh.rewinds;
  };

  const follow = async (name) => {
    let run = await fetchCurves(name), isFetching = false, isStale = false;
    redraw = () => drawRun(run);
    redraw();
    const at = `${run.rewinds}:${run.steps.at(-1) ?? -1}:${run.held_out.steps.length}`;
    const events = new EventSource("/run/stream?" + new URLSearchParams({ run: name, at }));
    events.addEventListener("open", () => window.answered(true));
    events.addEventListener("error", () => {
      window.answered(false);
      if (events.readyState === EventSource.CLOSED) setTimeout(() => follow(name).catch(() => window.answered(false)), 2000);
    });
    events.addEventListener("points", async (event) => {
      const fresh = JSON.parse(event.data);
      if (isFetching) { isStale = true; return; }
      if (isStale || fresh.is_anew || run.steps.length + fresh.steps.length > MOST_POINTS) {
        isFetching = true;  // what comes meanwhile may be in it or not: it is fetched once more
        isStale = false;
        try { run = await fetchCurves(name); } catch { isStale = true; window.answered(false); return; } finally { isFetching = false; }
      } else {
        append(run, fresh);
      }
      box.dataset.points = run.steps.length;
      document.dispatchEvent(new CustomEvent("run:changed"));
      redraw();
    });
    box.dataset.points = run.steps.length;
  };

  const compare = async () => {
    const tags = [...box.querySelectorAll("[data-name]")];
    const runs = await Promise.all(tags.map(async (tag) => ({ title: tag.dataset.title, ...(await fetchCurves(tag.dataset.name)) })));
    redraw = () => {
      for (const [key, title, isSmooth] of CHARTS) {
        const isHeld = key === "held_out";
        const rows = runs.map((run, i) => [run, i]).filter(([run]) => (isHeld ? run.held_out.steps.length : run.mean[key] && run.steps.length));
        if (!rows.length) continue;
        const tables = rows.map(([run]) => (isHeld ? [run.held_out.steps, run.held_out.loss] : [run.steps, isSmooth ? smooth(run.mean[key]) : run.mean[key]]));
        const series = rows.map(([run, i]) => line(run.title, colour(`--s${i % 12}`)));
        draw(key, isHeld ? "Held-out loss" : title, uPlot.join(tables), series, [], "");
      }
    };
    redraw();
    box.dataset.points = runs.map((run) => run.steps.length).join(" ");
  };

  let redraw = () => {};
  const repaint = () => { for (const chart of charts.values()) chart.shape = ""; redraw(); };
  logScale.addEventListener("change", repaint);
  smoothing.addEventListener("input", () => redraw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  new ResizeObserver(() => {
    for (const chart of charts.values()) chart.plotted?.setSize({ width: chart.plot.clientWidth, height: chart.plotted.height });
  }).observe(box);
  (box.dataset.compare ? compare() : follow(box.dataset.run)).catch(() => window.answered(false));
})();
