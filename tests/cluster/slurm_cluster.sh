#!/bin/bash
# A controller of Slurm and the nodes n1 and n2, all on this machine: slurm_cluster.sh FOLDER, in namespaces that
# tests/cluster/slurm_cluster.py makes. Real clusters have no two nodes with one address, hostname, list of processes and /tmp,
# and Ray would take two such nodes for one: `ray symmetric-run` for two heads, and its `ray stop` would end both.
set -eu
folder=$1 node=${2:-}
export SLURM_CONF=$folder/slurm.conf

if [ -n "$node" ]; then
    hostname "$node"
    # What a user of this machine has there belongs to another one. Both nodes see $folder, as shared storage.
    mount -t tmpfs tmpfs "/tmp/ray-$(id -un)"
    mount -t tmpfs tmpfs /dev/shm
    mkdir -p "$folder/$node"
    slurmd -D & # not as the first process, which has to collect what others leave behind, and bash does
    wait
    exit
fi

hostname controller
mount --bind "$folder/hosts" /etc/hosts
mount -t tmpfs tmpfs /run # sockets of munge and names of networks; a Slurm of this machine has its own there
mkdir /run/munge "$folder/state"
ip link set lo up
ip link add switch type bridge
ip address add 10.231.7.254/24 dev switch
ip link set switch up
munged --foreground --force --key-file="$folder/munge.key" --seed-file="$folder/munge.seed" &
for number in 1 2; do
    name=n$number
    ip netns add "$name"
    ip link add "port$number" type veth peer name eth0 netns "$name"
    ip link set "port$number" master switch up
    ip -netns "$name" link set lo up
    ip -netns "$name" link set eth0 up
    ip -netns "$name" address add "10.231.7.$number/24" dev eth0
    # Ray asks for the address from which it would reach the internet.
    ip -netns "$name" route add default via 10.231.7.254
    nsenter --net="/run/netns/$name" \
        unshare --uts --mount --pid --fork --kill-child --mount-proc bash "$0" "$folder" "$name" &
done
until [ -S /run/munge/munge.socket.2 ]; do sleep 0.1; done
slurmctld -D
