// Before anything is painted: the colours that were chosen here, or the system's.
(() => {
  try {
    const chosen = localStorage.getItem("boardfit-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch { /* no storage: as the system has it */ }
})();
