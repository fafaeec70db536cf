#!/bin/bash
# Inside a container or a booted board: the package from installation to purge, by README's own commands.
# /job/in: README.md, site.yaml, old/boardfit_*.deb, new/boardfit_*.deb (a later version),
# files/ (what the old package holds of Python).
set -u
. /job/in/inside/lib.sh

all_blocks_known
step "installation"
readme $INSTALL /job/in/old
refuse "not enabled while nothing is configured" systemctl is-enabled boardfit
refuse "not running while nothing is configured" systemctl is-active boardfit
expect "the user is there" getent passwd boardfit
expect "the manual page says every verb" sh -c 'zcat /usr/share/man/man1/boardfit.1.gz 2>/dev/null | grep -q "boardfit once" || ! [ -e /usr/share/man/man1 ]'
expect "completion loads" bash -c '. /usr/share/bash-completion/completions/boardfit; complete -p boardfit'
expect "the unit is well-formed" systemd-analyze verify --man=no boardfit.service
expect "the unit's exposure" systemd-analyze security --threshold=20 boardfit.service

step "configuration, a pass, the service"
install -d -o boardfit -g boardfit /var/lib/boardfit && touch /var/lib/boardfit/made-by-boardfit-demo # its registry is the demo's
readme $CONFIGURE /job
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

wait_for 300 serving
step "upgrade to a later version"
upgrade

step "back to the earlier version"
wait_for 300 serving
count=$(grep -c ^answered /run/application.log)
readme $BACK /job/in/old
the_earlier_refuses boardfit status
refuse "nor does the service take it" serving
application_went_on "$count"
step "forward again"
readme $UPGRADE /job/in/new
wait_for 300 serving
expect "it is whole" whole
application_went_on "$count"
systemctl stop application

step "a stopped service stays stopped"
systemctl stop boardfit
apt-get install --reinstall /job/in/new/boardfit_*.deb || fail "installation"
refuse "not started by an installation" systemctl is-active boardfit

step "remove and purge"
removal

step "an image with a configuration"
mkdir -p /etc/boardfit/conf.d /var/lib/boardfit && cp /job/in/site.yaml /etc/boardfit/conf.d/site.yaml
touch /var/lib/boardfit/made-by-boardfit-demo
apt-get install /job/in/new/boardfit_*.deb || fail "installation"
expect "enabled" systemctl is-enabled boardfit
expect "running" systemctl is-active boardfit
wait_for 240 deployed
expect "it is whole" whole
step "done"
