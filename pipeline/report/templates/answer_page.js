"use strict";
for (const film of document.querySelectorAll("section[data-film]")) {
  const player = film.querySelector("video");
  if (!player) continue;
  let end = Infinity;
  let asked = -1;
  const go = () => { player.currentTime = asked; player.play().catch(() => {}); };
  for (const jump of film.querySelectorAll("[data-start]")) {
    jump.addEventListener("click", (event) => {
      event.preventDefault();
      asked = Number(jump.dataset.start);
      end = Number(jump.dataset.end);
      for (const other of film.querySelectorAll(".playing")) other.classList.remove("playing");
      for (const same of film.querySelectorAll(`[data-moment="${jump.dataset.moment}"]`)) same.classList.add("playing");
      if (player.readyState >= 1) go(); else { player.addEventListener("loadedmetadata", go, { once: true }); player.load(); }
      player.scrollIntoView({ block: "nearest" });
    });
  }
  player.addEventListener("timeupdate", () => {
    if (player.currentTime >= end) { end = Infinity; player.pause(); }
  });
  player.addEventListener("seeking", () => { if (player.currentTime < asked - 0.5 || player.currentTime > end) end = Infinity; });
  const line = film.querySelectorAll(".now");
  player.addEventListener("timeupdate", () => {
    for (const mark of line) mark.style.left = `${100 * player.currentTime / Number(film.dataset.film)}%`;
  });
  const failed = () => { film.querySelector(".unplayable").hidden = false; };
  player.addEventListener("error", failed);
  if (player.error) failed();
}
