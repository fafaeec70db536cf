#!/bin/sh
# A systemd generator: gives boardfit.service what this board's family needs, at each start of the system, so that a
# memory card moved to another board, or an image made elsewhere, has what fits the board it is in.
# systemd.generator(7): $1 is the folder for what it makes; nothing can be waited for this early.
set -eu
link() {
    mkdir -p "$1/boardfit.service.d"
    ln -sf "/usr/share/boardfit/boards/$2.conf" "$1/boardfit.service.d/50-$2.conf"
}
root=${BOARDFIT_GENERATOR_ROOT:-}    # for a tree that is no kernel's
compatible=$(tr '\0' '\n' <"$root/proc/device-tree/compatible" 2>/dev/null || :)
case "$compatible" in *raspberrypi,*) link "$1" raspberry-pi ;; esac
case "$compatible" in *nvidia,tegra*) link "$1" jetson ;; esac
for vendor in "$root"/sys/bus/pci/devices/*/vendor; do
    case "$(cat "$vendor" 2>/dev/null || :)" in
        0x10de) link "$1" nvidia ;;
        0x1ac1) link "$1" coral ;;
    esac
done
