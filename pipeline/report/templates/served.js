"use strict";
(() => {
  const PREVIEW_BEFORE = 2, PREVIEW_AFTER = 3, LONGEST_PREVIEW = 60, STILLS_AT_ONCE = 2;
  const $ = (selector) => document.querySelector(selector);
  const now = { key: "", plays: true, seconds: 0, name: "", source: "", offset: 0, asked: -1, end: Infinity, play: false };

  const panel = () => $("#player");
  const video = () => $("#player video");
  const state = (name) => { panel().className = `player ${name}`; };
  const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;

  function go() {
    const player = video();
    if (now.asked >= 0) player.currentTime = Math.max(0, now.asked - now.offset);
    if (now.play) player.play().catch(() => {});
  }

  function sourceFor(start, end) {
    if (now.plays) return { address: `films/${now.key}`, offset: 0 };
    const from = Math.max(0, start - PREVIEW_BEFORE);
    const to = Math.min(now.seconds, Math.max(end + PREVIEW_AFTER, from + 10), from + LONGEST_PREVIEW);
    return { address: `previews/${now.key}?start=${from.toFixed(3)}&end=${to.toFixed(3)}`, offset: from };
  }

  function show(film, start, end, play) {
    if (film.key !== now.key) Object.assign(now, { key: film.key, plays: film.plays === "yes" });
    Object.assign(now, { name: film.name, seconds: Number(film.seconds), asked: start, end: play ? end : Infinity, play });
    const player = video(), wanted = sourceFor(start, Number.isFinite(end) ? end : start + 10);
    $("#player .playing-name").textContent = now.name;
    if (wanted.address !== now.source) {
      Object.assign(now, { source: wanted.address, offset: wanted.offset });
      state(now.plays ? "ready" : "waiting");
      player.src = wanted.address;
      player.load();
    } else if (player.readyState >= 1) {
      go();
    }
  }

  function watch(player) {
    player.addEventListener("loadedmetadata", () => { state("ready"); go(); });
    player.addEventListener("error", () => {
      if (!player.getAttribute("src")) return;
      if (now.plays) {
        now.plays = false;
        show(now, Math.max(now.asked, 0), now.end, now.play);
      } else {
        state("failed");
      }
    });
    player.addEventListener("timeupdate", () => {
      const at = now.offset + player.currentTime;
      $("#player .playing-time").textContent = `${clock(at)} of ${clock(now.seconds)}`;
      for (const one of document.querySelectorAll(".served[data-key] .now")) {
        const here = one.closest(".served").dataset.key === now.key;
        one.style.left = here ? `${100 * at / now.seconds}%` : "0";
        one.hidden = !here;
      }
      if (at >= now.end) { now.end = Infinity; player.pause(); }
    });
    player.addEventListener("seeking", () => {
      const at = now.offset + player.currentTime;
      if (at < now.asked - 0.5 || at > now.end) now.end = Infinity;
    });
  }

  document.addEventListener("click", (event) => {
    const jump = event.target.closest("[data-start]");
    if (!jump) return;
    const film = jump.closest("[data-key]");
    if (!film) return;
    event.preventDefault();
    for (const other of document.querySelectorAll(".playing")) other.classList.remove("playing");
    for (const same of document.querySelectorAll(`[data-moment="${CSS.escape(jump.dataset.moment)}"]`)) same.classList.add("playing");
    show(film.dataset, Number(jump.dataset.start), Number(jump.dataset.end || Infinity), true);
    panel().scrollIntoView({ block: "nearest", behavior: "smooth" });
  });

  function seconds(event, lane) {
    const box = lane.getBoundingClientRect();
    return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 0.999);
  }

  document.addEventListener("click", (event) => {
    const lane = event.target.closest(".served .strip, .served .curve");
    if (!lane) return;
    const film = lane.closest("[data-key]").dataset;
    const at = seconds(event, lane) * Number(film.seconds);
    show(film, at, Infinity, true);
  });

  function upload(file) {
    const box = $("#uploader"), bar = box.querySelector(".progress"), problem = box.querySelector(".notice");
    const request = new XMLHttpRequest();
    const say = (text) => { bar.hidden = true; problem.hidden = !text; problem.textContent = text; box.classList.remove("busy"); };
    say("");
    bar.hidden = false;
    box.classList.add("busy");
    request.open("POST", `uploads?name=${encodeURIComponent(file.name)}`);
    request.upload.onprogress = (event) => { bar.firstElementChild.style.width = `${100 * event.loaded / event.total}%`; };
    request.onload = () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { answer = { problem: `The film was refused (${request.status}).` }; }
      say(answer.problem || "");
      if (answer.key) $("#uploaded button, button#uploaded").click();
    };
    request.onerror = () => say("The film could not be sent.");
    request.send(file);
  }

  document.addEventListener("change", (event) => {
    const input = event.target;
    if (!input.matches || !input.matches("#uploader input[type=file]") || !input.files.length) return;
    upload(input.files[0]);
    input.value = "";
  });

  let fetching = 0;
  function fetchStills() {
    for (const picture of document.querySelectorAll("img[data-still]")) {
      if (fetching >= STILLS_AT_ONCE) return;
      fetching += 1;
      const done = () => { fetching -= 1; fetchStills(); };
      picture.onload = picture.onerror = done;
      picture.src = picture.dataset.still;
      picture.removeAttribute("data-still");
    }
  }

  function look() {
    fetchStills();
    const player = video();
    if (player && !player.dataset.watched) { player.dataset.watched = "yes"; watch(player); }
    const fresh = $(".served[data-fresh]");
    if (!fresh || !player) return;
    fresh.removeAttribute("data-fresh");
    if (!fresh.dataset.key) return;
    const start = Number(fresh.dataset.first || 0), end = Number(fresh.dataset.last || Infinity);
    show(fresh.dataset, start, end, false);
  }

  new MutationObserver(look).observe(document.documentElement, { childList: true, subtree: true });
  look();
})();
