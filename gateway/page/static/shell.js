// What both pages have around them: language, colours, and panes that become tabs on a narrow screen.

import { language, onLanguage, setLanguage, translate } from "./i18n.js";

const THEME = "theme";

function stored(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

/** Wire the header's buttons, and put the texts in. */
export function openShell() {
  const theme = stored(THEME);
  if (theme) document.documentElement.dataset.theme = theme;
  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try {
      localStorage.setItem(THEME, root.dataset.theme);
    } catch {
      // not remembered, that is all
    }
  });
  document.getElementById("language").addEventListener("click", () => setLanguage(language() === "zh" ? "en" : "zh"));
  const title = () => (document.title = document.querySelector("h1").textContent);
  onLanguage(title);
  translate(document.documentElement);
  title();
}

/** Tabs for a narrow screen; on a wide one all panes show and the tabs do not. `show(name)` is given back. */
export function openTabs(list, panes) {
  const tabs = [...list.querySelectorAll("[role=tab]")];
  const show = (name) => {
    panes.dataset.shown = name;
    for (const tab of tabs) {
      const chosen = tab.dataset.pane === name;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
  };
  for (const tab of tabs) tab.addEventListener("click", () => show(tab.dataset.pane));
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
    show(next.dataset.pane);
    next.focus();
  });
  return show;
}
