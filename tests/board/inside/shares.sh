#!/bin/bash
# On a booted board (cgroup v2): an application in system.slice and work in boardfit.slice want every processor at once;
# who got how much is the kernel's own account. Then memory: in the same want, who is taken first.
set -u
. /job/in/inside/lib.sh
slice=/sys/fs/cgroup/boardfit.slice
[ -e /usr/lib/systemd/system/boardfit.slice ] || { cp /job/in/boardfit.slice /etc/systemd/system/; systemctl daemon-reload; }
spin='for i in $(seq $(nproc)); do (while :; do :; done) & done; wait'
used() { awk '$1 == "usage_usec" {print $2}' "$1/cpu.stat"; }

step "shares of the processors"
systemd-run -q --unit=application sh -c "$spin"
systemd-run -q --unit=measuring --slice=boardfit.slice sh -c "$spin"
application=/sys/fs/cgroup/system.slice/application.service measuring=$slice/measuring.service
sleep 3
a0=$(used $application) m0=$(used $measuring)
sleep 20
a=$(($(used $application) - a0)) m=$(($(used $measuring) - m0))
systemctl stop application measuring
echo "application $a us, boardfit.slice $m us: $((100 * m / (a + m))) % of 100"
# by the weights a tenth of the application's; twice that is allowed for a board that is emulated on busy cores
expect "the application got five times as much at least" test "$a" -ge $((5 * m))
