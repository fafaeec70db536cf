#!/bin/bash
# On a booted board, first boot: installation by README, a pass against the host's registry and broker, the limits that
# only a kernel with cgroup v2 shows, and a power cut in the middle of a deployment.
set -u
. /job/in/inside/lib.sh

step "installation"
all_blocks_known
readme $INSTALL /job/in/old
step "configuration, a pass, the service"
install -m 644 /job/in/root.json /etc/boardfit/root.json
readme $CONFIGURE /job
step "checks"
expect "running" systemctl is-active boardfit
expect "a model is deployed" deployed
expect "it is whole" whole
expect "in its slice" sh -c '[ "$(systemctl show -P ControlGroup boardfit)" = /boardfit.slice/boardfit.service ]'
expect "a tenth of an application's share" sh -c '[ "$(cat /sys/fs/cgroup/boardfit.slice/cpu.weight)" = 10 ]'
expect "a memory limit" sh -c '[ "$(cat /sys/fs/cgroup/boardfit.slice/boardfit.service/memory.max)" != max ]'
pid=$(systemctl show -P MainPID boardfit)
expect "the kernel takes it before an application" sh -c "[ \"\$(cat /proc/$pid/oom_score_adj)\" = 200 ]"
# what the unit's own file system shows: only its own group may be written
inside() { nsenter -t "$pid" -m setpriv --reuid boardfit --regid boardfit --clear-groups "$@"; }
expect "groups can be made below the unit's" inside sh -c 'mkdir /sys/fs/cgroup/boardfit.slice/boardfit.service/x && rmdir /sys/fs/cgroup/boardfit.slice/boardfit.service/x'
refuse "and nowhere else" inside mkdir /sys/fs/cgroup/system.slice/x
refuse "nor is another's limit written" nsenter -t "$pid" -m sh -c 'echo 1 >/sys/fs/cgroup/system.slice/memory.high'
ls /usr/share/boardfit/boards /run/systemd/generator/boardfit.service.d 2>&1
readlink /var/lib/boardfit/deploy/digits/current | tee /job/out/before
deployedname=$(whole | cut -d' ' -f1)

step "a power cut in the middle of a deployment"
other=$(grep -vxF "$deployedname" /job/in/candidates | head -1)
releases() { ls /var/lib/boardfit/deploy/digits/releases | wc -l; }
count=$(releases)
systemctl stop boardfit
sync
boardfit deploy --task digits --candidate "$other" >/job/out/deploy.log 2>&1 &
while [ "$(releases)" = "$count" ]; do
    kill -0 $! 2>/dev/null || { cat /job/out/deploy.log; fail "the deployment ended before it staged anything"; }
    sleep 0.1
done
echo "releases: $count, then $(releases): cut" | tee /job/out/cut.log
touch /job/cut
sleep 60
fail "the power stayed on"
