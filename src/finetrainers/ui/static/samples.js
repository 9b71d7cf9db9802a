// Samples by prompt: at one step, which a slider picks, or at all steps beside each other.
"use strict";

(() => {
  const box = document.querySelector(".samples");
  if (!box) return;
  const slider = document.getElementById("sample-step"), at = document.getElementById("sample-at"), all = document.getElementById("sample-all");
  let found = [], steps = [], prompts = [];

  const medium = (sample) => {
    const element = document.createElement(sample.is_video ? "video" : "img");
    element.src = "/run/file?" + new URLSearchParams({ run: box.dataset.run, file: sample.file });
    if (sample.is_video) { element.controls = element.loop = element.muted = true; element.preload = "metadata"; } else { element.loading = "lazy"; element.alt = `${sample.prompt}, step ${sample.step}`; }
    return element;
  };
  const figure = (sample, text) => {
    const element = document.createElement("figure"), caption = document.createElement("figcaption");
    caption.textContent = text;
    element.append(medium(sample), caption);
    return element;
  };

  const draw = () => {
    if (!found.length) return;
    const step = steps[Number(slider.value)];
    at.textContent = String(step);
    slider.setAttribute("aria-valuetext", `step ${step}`);
    box.classList.toggle("all", all.checked);
    box.replaceChildren(...prompts.flatMap((prompt, number) => {
      const own = found.filter((sample) => sample.number === number);
      if (!all.checked) return own.filter((sample) => sample.step === step).map((sample) => figure(sample, prompt));
      const title = document.createElement("h3"), strip = document.createElement("div");
      title.textContent = prompt;
      strip.className = "strip";
      strip.tabIndex = 0;
      strip.append(...own.map((sample) => figure(sample, `step ${sample.step}`)));
      return [title, strip];
    }));
  };

  const load = async () => {
    const answer = await fetch("/run/samples?" + new URLSearchParams({ run: box.dataset.run }));
    if (!answer.ok) return;
    const fresh = await answer.json();
    if (fresh.length === found.length) return;
    const wasLast = Number(slider.value) === steps.length - 1 || !steps.length, before = steps[Number(slider.value)];
    found = fresh;
    steps = [...new Set(found.map((sample) => sample.step))].sort((a, b) => a - b);
    prompts = [];
    for (const sample of found) prompts[sample.number] = sample.prompt;
    slider.max = String(Math.max(0, steps.length - 1));
    slider.value = String(wasLast ? steps.length - 1 : Math.max(0, steps.indexOf(before)));
    for (const label of document.querySelectorAll("label.slider")) label.hidden = false;
    draw();
  };

  const show = () => load().catch(() => window.answered(false));

  slider.addEventListener("input", draw);
  all.addEventListener("change", draw);
  let waits = null;
  document.addEventListener("run:changed", () => { waits ??= setTimeout(() => { waits = null; show(); }, 1000); });
  show();
})();
