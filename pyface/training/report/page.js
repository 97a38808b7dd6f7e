"use strict";
document.documentElement.classList.add("js");
for (const sheet of document.querySelectorAll(".sheet")) {
  const frames = sheet.querySelectorAll(".frame");
  const slider = sheet.querySelector(".slider input");
  const label = sheet.querySelector("output");
  const show = (at) => {
    frames.forEach((frame, i) => frame.classList.toggle("shown", i === at));
    if (label) label.textContent = frames[at].dataset.label;
  };
  show(frames.length - 1);
  const toggle = sheet.querySelector(".toggle input");
  if (toggle) toggle.addEventListener("change", () => sheet.classList.toggle("unaveraged", toggle.checked));
  if (slider) slider.addEventListener("input", () => show(Number(slider.value)));
}
