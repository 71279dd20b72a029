// What the pages do with scripts; without, they only have to be reloaded.
"use strict";
(() => {
  const root = document.documentElement;

  // --- light and dark: as the system has it, unless somebody chose ---
  const themes = ["system", "light", "dark"];
  const kept = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
  const keep = (name, value) => { try { localStorage.setItem(name, value); } catch { /* not allowed */ } };
  const show = (theme) => {
    if (theme === "system") delete root.dataset.theme; else root.dataset.theme = theme;
  };
  let theme = themes.includes(kept("asynctasq-theme")) ? kept("asynctasq-theme") : "system";
  show(theme); // at once, so that no page flashes

  const localise = (within) => {
    for (const time of within.querySelectorAll("time[datetime]")) {
      const moment = new Date(time.dateTime);
      if (!Number.isNaN(moment.getTime())) time.textContent = moment.toLocaleString();
    }
  };

  // The box that selects all; it is of no use without scripts, so the server hides it.
  const offerAll = (within) => {
    for (const all of within.querySelectorAll("input[data-all]")) all.hidden = false;
  };
  document.addEventListener("change", (event) => {
    if (!event.target.matches("input[data-all]")) return;
    for (const one of document.querySelectorAll('#chosen input[name="id"]')) one.checked = event.target.checked;
  });

  // --- live: the server sends the changing part of the page whenever it has changed ---
  const isBusy = (live) =>
    live.querySelector("input:checked") !== null ||
    (live.contains(document.activeElement) && document.activeElement.matches("input:not([type=checkbox])")) ||
    !document.getSelection().isCollapsed;

  // Make one tree like another and keep what is the same, so that nothing loses its focus, its tick
  // or the click that is being made on it. Rows are told from each other by their keys.
  const isLike = (one, other) =>
    one.nodeType === other.nodeType && one.nodeName === other.nodeName &&
    one.dataset?.key === other.dataset?.key;

  const become = (old, now) => {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== now.data) old.data = now.data;
      return;
    }
    for (const { name } of [...old.attributes]) if (!now.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of now.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    children(old, now);
  };

  const children = (old, now) => {
    const keyed = new Map();
    for (const each of old.children) if (each.dataset.key) keyed.set(each.dataset.key, each);
    let at = old.firstChild;
    for (const next of [...now.childNodes]) {
      let found = next.dataset?.key ? keyed.get(next.dataset.key) : at;
      while (found && !isLike(found, next)) found = found.nextSibling;
      if (!found) {
        old.insertBefore(next, at);
        continue;
      }
      if (found === at) at = at.nextSibling; else old.insertBefore(found, at);
      become(found, next);
    }
    while (at) {
      const after = at.nextSibling;
      at.remove();
      at = after;
    }
  };

  const replace = (live, html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    localise(template.content);
    offerAll(template.content);
    children(live, template.content);
  };

  const follow = (live) => {
    const button = document.getElementById("live-switch");
    const away = document.getElementById("away");
    const address = new URL(location.href);
    address.searchParams.set("live", "1");
    let source = null;
    let wanted = kept("asynctasq-live") !== "off";
    let timer = null;
    let pending = null; // what came while somebody was busy

    const catchUp = () => {
      if (pending === null || isBusy(live)) return;
      replace(live, pending);
      pending = null;
    };
    for (const kind of ["change", "focusout", "selectionchange"]) {
      document.addEventListener(kind, () => setTimeout(catchUp));
    }
    const stop = () => { source?.close(); source = null; clearTimeout(timer); };
    const start = () => {
      stop();
      if (!wanted || document.hidden) return;
      source = new EventSource(address);
      source.addEventListener("content", (event) => {
        away.hidden = true;
        pending = JSON.parse(event.data);
        catchUp();
      });
      source.addEventListener("problem", (event) => {
        away.textContent = "The broker cannot be asked: " + JSON.parse(event.data);
        away.hidden = false;
      });
      source.onerror = () => {
        // The browser comes back by itself, unless the server has refused.
        if (source?.readyState === EventSource.CLOSED) { stop(); timer = setTimeout(start, 10000); }
      };
    };
    const say = () => {
      button.setAttribute("aria-pressed", String(wanted));
      button.querySelector(".word").textContent = wanted ? "Live" : "Not live";
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      wanted = !wanted;
      keep("asynctasq-live", wanted ? "on" : "off");
      say();
      start();
    });
    document.addEventListener("visibilitychange", start);
    addEventListener("pagehide", stop);
    addEventListener("pageshow", (event) => { if (event.persisted) start(); });
    say();
    start();
  };

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme-switch");
    const say = () => { button.textContent = "Theme: " + theme; };
    button.hidden = false;
    button.addEventListener("click", () => {
      theme = themes[(themes.indexOf(theme) + 1) % themes.length];
      keep("asynctasq-theme", theme);
      show(theme);
      say();
    });
    say();
    localise(document);
    offerAll(document);
    const live = document.getElementById("live");
    if (live && "live" in document.body.dataset) follow(live);
  });
})();
