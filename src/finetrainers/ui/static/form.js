// The form of a new run: shows only the keys of the kind that is chosen, and checks while it is filled in.
"use strict";

(() => {
  const form = document.getElementById("new"), verdict = document.getElementById("verdict"), yaml = document.getElementById("as-yaml");
  const touched = new Set();
  let waits = null, asked = 0;

  const showKinds = () => {
    for (const select of form.querySelectorAll("select[name$='.kind']")) {
      const section = select.closest("fieldset"), kind = select.value || select.options[0].textContent;
      for (const field of section.querySelectorAll("[data-kind]")) {
        if (field.closest("fieldset") === section) field.hidden = field.dataset.kind !== kind;
      }
    }
  };

  const showErrors = (errors, isAll) => {
    let left = 0;
    for (const field of form.querySelectorAll(".field")) {
      const input = field.querySelector("input, select, textarea"), lines = errors[input.name] ?? [];
      left += lines.length > 0;
      const shown = isAll || touched.has(input.name) ? lines : [];
      field.classList.toggle("wrong", shown.length > 0);
      field.querySelector(".error").textContent = shown.join("\n");
      if (shown.length) { input.setAttribute("aria-invalid", "true"); input.closest("details")?.setAttribute("open", ""); } else input.removeAttribute("aria-invalid");
    }
    const others = (errors[""] ?? []).concat(...Object.entries(errors).filter(([name]) => name && !form.elements[name]).map(([, lines]) => lines));
    verdict.textContent = others.length ? others.join("\n") : left ? `${left} to fill in or correct` : "Ready to start";
    verdict.classList.toggle("error", others.length > 0);
  };

  const check = async () => {
    const number = ++asked;
    try {
      const answer = await fetch("/new/check", { method: "POST", body: new URLSearchParams(new FormData(form)) });
      if (!answer.ok || number !== asked) return;
      const { errors, yaml: text } = await answer.json();
      yaml.textContent = text;
      showErrors(errors, Boolean(form.dataset.all));
      window.answered(true);
    } catch { window.answered(false); }
  };

  form.addEventListener("input", (event) => {
    touched.add(event.target.name);
    showKinds();
    clearTimeout(waits);
    waits = setTimeout(check, 300);
  });
  document.body.addEventListener("htmx:afterSettle", showKinds);
  for (const area of form.querySelectorAll(".field textarea")) area.rows = Math.max(area.rows, Math.min(8, area.value.split("\n").length));
  if (form.querySelector(".wrong")) {
    form.dataset.all = "yes";
    form.querySelector(".wrong input, .wrong select, .wrong textarea").focus();
  }
  showKinds();
  check();
})();
