#!/bin/bash
# On the same board after the power cut: old or new model, whole; upgrade, removal.
set -u
. /job/in/inside/lib.sh
step "after the power cut"
expect "the service came up by itself" systemctl is-active boardfit
expect "a model is deployed" deployed
expect "it is whole" whole
whole
# the board's tree takes no documentation
expect "the package is whole" sh -c 'dpkg --verify boardfit | grep -v " c " | grep -Ev "^missing +/usr/share/(doc|man)" | grep . && exit 1 || exit 0'
expect "status reads" boardfit status
wait_for 900 serving
expect "it is whole when the pass at start is over" whole
step "upgrade to a later version"
upgrade
step "the earlier version's program with this state"
the_earlier_refuses runuser -u boardfit -- env PYTHONPATH=/job/in/files "$python" -m agent status --state-dir /var/lib/boardfit
count=$(grep -c ^answered /run/application.log)
wait_for 900 serving
expect "it is whole when the pass at start is over" whole
application_went_on "$count"
systemctl stop application
whole | tee /job/out/served
step "the application first"
systemctl stop boardfit
bash /job/in/inside/shares.sh || exit 1
step "remove and purge"
removal
step "done"
