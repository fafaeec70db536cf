#!/bin/sh
# In the place of the agent, as its user and in its unit: see unit.sh. Moves as agent/device/worker_group.py does.
own=/sys/fs/cgroup/boardfit.slice/boardfit.service
exec >/var/lib/boardfit/said 2>&1
id -un
mkdir $own/boardfit-agent && echo "own group: made"
mkdir /sys/fs/cgroup/system.slice/elsewhere && echo "elsewhere: made"
echo max >$own/memory.max && echo "own limit: lifted"
echo $$ >$own/boardfit-agent/cgroup.procs
echo +memory >$own/cgroup.subtree_control
mkdir $own/boardfit-worker-1
echo 20M >$own/boardfit-worker-1/memory.max
echo 0 >$own/boardfit-worker-1/memory.swap.max
sh -c "echo \$\$ >$own/boardfit-worker-1/cgroup.procs; exec tail /dev/zero"
echo "worker: $?"
cat $own/boardfit-worker-1/memory.peak $own/boardfit-worker-1/memory.events
touch /var/lib/boardfit/done
exec sleep 600
