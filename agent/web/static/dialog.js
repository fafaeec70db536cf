// A dialog: the browser's own, so that Escape, focus and what lies behind it are right by themselves.

import { h } from "./dom.js";

/** Open one. Returns: the dialog element; close() ends it. */
export function openDialog(title, ...content) {
  const back = document.activeElement;
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" },
    h("div", { class: "dialog-head" }, h("h2", { id: "dialog-title" }, title),
      h("button", { type: "button", class: "quiet icon", "aria-label": "Close", on: { click: () => dialog.close() } }, "✕")),
    h("div", { class: "dialog-body" }, content));
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (back?.isConnected) back.focus();
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.getElementById("dialogs").append(dialog);
  dialog.showModal();
  return dialog;
}
