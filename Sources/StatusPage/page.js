"use strict";
// Puts newer values in the place of those shown, and says so when none come: old values must not pass for new ones.
(() => {
  const byId = (id) => document.getElementById(id);
  const shownAt = () => document.querySelector("footer time").textContent;
  let underWay = false;

  function scripted() {
    for (const part of document.querySelectorAll(".scripted")) part.hidden = false;
  }

  function show(next) {
    if (next.documentElement.dataset.version !== document.documentElement.dataset.version) {
      location.reload();
      return;
    }
    // Only if it says something else, or a screen reader would read it out again and again.
    if (byId("verdict").innerHTML !== next.getElementById("verdict").innerHTML) {
      byId("verdict").replaceChildren(...next.getElementById("verdict").childNodes);
    }
    document.title = next.title;
    const focused = document.activeElement && document.activeElement.id;
    byId("live").replaceChildren(...next.getElementById("live").childNodes);
    scripted();
    if (focused && byId(focused)) byId(focused).focus({ preventScroll: true });
  }

  async function renew() {
    // What somebody is about to copy stays.
    if (underWay || document.hidden || !document.getSelection().isCollapsed) return;
    underWay = true;
    try {
      const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(4000) });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      show(new DOMParser().parseFromString(await answer.text(), "text/html"));
      byId("stale").hidden = true;
    } catch {
      byId("since").textContent = shownAt();
      byId("stale").hidden = false;
    } finally {
      underWay = false;
    }
  }

  scripted();
  setInterval(renew, 5000);
  document.addEventListener("visibilitychange", renew);
})();
