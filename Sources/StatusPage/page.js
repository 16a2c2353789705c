"use strict";
// Puts newer values in the place of those shown, and says so when none come: old values must not pass for new ones.
(() => {
  const byId = (id) => document.getElementById(id);
  const shownAt = () => document.querySelector("footer time").textContent;
  let underWay = false;

  function scripted() {
    for (const part of document.querySelectorAll(".scripted")) part.hidden = false;
  }

  function say(words) {
    if (byId("stale").textContent !== words) byId("stale").textContent = words;
    byId("stale").hidden = words === "";
  }

  // Only if it says something else, or a screen reader would read it out again and again.
  function headline(verdict) {
    if (byId("verdict").innerHTML !== verdict.innerHTML) byId("verdict").replaceChildren(...verdict.cloneNode(true).childNodes);
  }

  function show(next) {
    if (next.documentElement.dataset.version !== document.documentElement.dataset.version) {
      location.reload();
      return;
    }
    headline(next.getElementById("verdict"));
    document.title = next.title;
    // What somebody is about to copy stays, and is called what it is by then.
    const selection = document.getSelection();
    if (!selection.isCollapsed && selection.getRangeAt(0).intersectsNode(byId("live"))) {
      say(`Held while something is selected: what is below is from ${shownAt()}.`);
      return;
    }
    const focused = document.activeElement && document.activeElement.id;
    const open = [...document.querySelectorAll("details[open]")].map((one) => one.id);
    byId("live").replaceChildren(...next.getElementById("live").childNodes);
    scripted();
    for (const id of open) if (byId(id)) byId(id).open = true;
    if (focused && byId(focused)) byId(focused).focus({ preventScroll: true });
    say("");
  }

  function lost() {
    const verdict = document.createElement("div");
    const head = document.createElement("h1");
    const mark = document.createElement("span");
    head.className = "down";
    mark.className = "mark";
    mark.setAttribute("aria-hidden", "true");
    mark.textContent = "?";
    head.append(mark, " No answer from the daemon");
    verdict.append(head);
    headline(verdict);
    document.title = "? No answer from the daemon";
    say(`What is below is from ${shownAt()} and may be wrong now.`);
  }

  async function renew() {
    if (underWay) return;
    underWay = true;
    try {
      const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(4000) });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      show(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } catch {
      lost();
    } finally {
      underWay = false;
    }
  }

  scripted();
  setInterval(renew, 5000);
  document.addEventListener("visibilitychange", renew);
})();
