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
step "upgrade"
before=$(whole)
(cd /job/in/new && apt-get -o APT::Sandbox::User=root install -y -q ./boardfit_*.deb) || fail upgrade
expect "running again" systemctl is-active boardfit
expect "the deployed model is whole" whole
step "the application first"
systemctl stop boardfit
bash /job/in/inside/shares.sh || exit 1
step "remove and purge"
apt-get remove -y -q boardfit || fail remove
refuse "nothing below /opt" test -e /opt/boardfit
expect "the deployed model stays" deployed
apt-get purge -y -q boardfit || fail purge
for left in /etc/boardfit /var/lib/boardfit /var/cache/boardfit /opt/boardfit; do [ ! -e "$left" ] || fail "purge left $left"; done
echo "ok    nothing is left but the user"
step "done"
