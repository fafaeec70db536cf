#!/bin/bash
# On a booted board (cgroup v2), without the package: what boardfit.service lets a process do with groups, and that one
# which outgrows its own dies alone. The unit is the real one; a shell stands where the agent would.
set -u
. /job/in/inside/lib.sh
useradd --system boardfit
cp /job/in/boardfit.service /job/in/boardfit.slice /etc/systemd/system/
mkdir -p /etc/systemd/system/boardfit.service.d
printf '[Service]\nType=exec\nWatchdogSec=0\nExecStart=\nExecStart=/bin/sh /job/in/inside/stand-in.sh\n' >/etc/systemd/system/boardfit.service.d/test.conf
systemctl daemon-reload
systemctl start boardfit
wait_for 120 test -e /var/lib/boardfit/done
cat /var/lib/boardfit/said
expect "a group below its own" grep -q "own group: made" /var/lib/boardfit/said
refuse "no group elsewhere" grep -q "elsewhere: made" /var/lib/boardfit/said
refuse "its own limit cannot be lifted" grep -q "own limit: lifted" /var/lib/boardfit/said
expect "a process beyond its group's limit is killed" grep -q "worker: 137" /var/lib/boardfit/said
expect "the service lives on" systemctl is-active boardfit
expect "systemd saw no failure" test "$(systemctl show -P Result boardfit)" = success
step "done"
