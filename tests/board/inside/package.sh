#!/bin/bash
# Inside a container or a booted board: the package from installation to purge, by README's own commands.
# /job/in: README.md, site.yaml, old/boardfit_*.deb, new/boardfit_*.deb (a later revision).
set -u
. /job/in/inside/lib.sh

step "installation"
readme 1 /job/in/old
refuse "not enabled while nothing is configured" systemctl is-enabled boardfit
refuse "not running while nothing is configured" systemctl is-active boardfit
expect "the user is there" getent passwd boardfit
expect "the manual page says every verb" sh -c 'zcat /usr/share/man/man1/boardfit.1.gz 2>/dev/null | grep -q "boardfit once" || ! [ -e /usr/share/man/man1 ]'
expect "completion loads" bash -c '. /usr/share/bash-completion/completions/boardfit; complete -p boardfit'
expect "the unit is well-formed" systemd-analyze verify --man=no boardfit.service
expect "the unit's exposure" systemd-analyze security --threshold=20 boardfit.service

step "configuration, a pass, the service"
install -d -o boardfit -g boardfit /var/lib/boardfit && touch /var/lib/boardfit/made-by-boardfit-demo # its registry is the demo's
readme 2 /job
expect "running" systemctl is-active boardfit
expect "a model is deployed" deployed
expect "it is whole" whole
expect "the application may read it" runuser -u nobody -- sh -c 'cat /var/lib/boardfit/deploy/digits/current/deployment.json'
expect "in its slice" sh -c '[ "$(systemctl show -P ControlGroup boardfit)" = /boardfit.slice/boardfit.service ]'
expect "the watchdog is on" sh -c '[ "$(systemctl show -P WatchdogUSec boardfit)" = 1min ]'
expect "the kernel takes it before an application" sh -c '[ "$(cat /proc/$(systemctl show -P MainPID boardfit)/oom_score_adj)" = 200 ]'
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    expect "a tenth of the application's share" sh -c '[ "$(cat /sys/fs/cgroup/boardfit.slice/cpu.weight)" = 10 ]'
fi

refuse "nothing of root's among the state" sh -c 'find /var/lib/boardfit ! -user boardfit ! -name made-by-boardfit-demo | grep .'

step "upgrade"
before=$(whole)
echo "# a line of the operator's" >>/etc/boardfit/agent.yaml
( while deployed; do sleep 0.2; done; touch /tmp/gap ) & watch=$!
pid=$(systemctl show -P MainPID boardfit)
readme_line='apt install ./boardfit_*.deb'; grep -qxF "$readme_line" /job/in/README.md || fail "README no longer says $readme_line"
(cd /job/in/new && apt-get -o APT::Sandbox::User=root install -y -q ./boardfit_*.deb) || fail "upgrade"
refuse "the deployed model was never out of service" test -e /tmp/gap
kill $watch
expect "running again" systemctl is-active boardfit
[ "$(systemctl show -P MainPID boardfit)" != "$pid" ] && echo "ok    as a new process" || fail "not restarted"
expect "the operator's line is kept" grep -q "a line of the operator's" /etc/boardfit/agent.yaml
[ "$(whole)" = "$before" ] && echo "ok    the same model: $before" || fail "another model"

step "a stopped service stays stopped"
systemctl stop boardfit
(cd /job/in/old && apt-get -o APT::Sandbox::User=root install -y -q --allow-downgrades ./boardfit_*.deb) || fail "downgrade"
refuse "not started by an installation" systemctl is-active boardfit

step "state of a later version"
/opt/boardfit/bin/python -c 'import sqlite3; c = sqlite3.connect("/var/lib/boardfit/boardfit.db"); c.execute("PRAGMA user_version=99"); c.commit()'
boardfit status >/tmp/later.log 2>&1 && fail "it was read"
expect "refused in one sentence" grep -q "written by a later version of boardfit" /tmp/later.log
refuse "and no traceback" grep -q Traceback /tmp/later.log
/opt/boardfit/bin/python -c 'import sqlite3; c = sqlite3.connect("/var/lib/boardfit/boardfit.db"); c.execute("PRAGMA user_version=1"); c.commit()'

step "remove"
apt-get remove -y -q boardfit || fail remove
refuse "nothing below /opt" test -e /opt/boardfit
refuse "no unit" systemctl cat boardfit.service
expect "configuration stays" test -s /etc/boardfit/agent.yaml
expect "the deployed model stays" deployed

step "purge"
apt-get purge -y -q boardfit || fail purge
for left in /etc/boardfit /var/lib/boardfit /var/cache/boardfit /opt/boardfit /etc/systemd/system/multi-user.target.wants/boardfit.service; do
    if [ -e "$left" ] || [ -L "$left" ]; then fail "purge left $left"; fi
done
echo "ok    nothing is left but the user"

step "an image with a configuration"
mkdir -p /etc/boardfit/conf.d /var/lib/boardfit && cp /job/in/site.yaml /etc/boardfit/conf.d/site.yaml
touch /var/lib/boardfit/made-by-boardfit-demo
(cd /job/in/new && apt-get -o APT::Sandbox::User=root install -y -q ./boardfit_*.deb) || fail "installation"
expect "enabled" systemctl is-enabled boardfit
expect "running" systemctl is-active boardfit
wait_for 240 deployed
expect "it is whole" whole
step "done"
