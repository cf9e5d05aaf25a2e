#!/bin/bash
# The first process of a node, in namespaces of its own; with it end all others. It mounts, plugs in, starts what a node and
# its control plane consist of, and then reaps. The variables are those of setup.rs.
set -eu

hostname node
# A /sys of this network, with the machine's cgroups kept beneath it; a /proc of these processes.
mkdir -p "$DATA/cgroup"
mount --rbind /sys/fs/cgroup "$DATA/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$DATA/cgroup" /sys/fs/cgroup
umount -R "$DATA/cgroup"
mount -t proc proc /proc
# What is written to these stays in the node's folder, or in memory.
mount -t tmpfs tmpfs /run
mkdir -p /run/netns /run/lock
mkdir -p "$DATA/var-lib" "$DATA/var-log"
mount --bind "$DATA/var-lib" /var/lib
mount --bind "$DATA/var-log" /var/log
mount --make-rshared /
# What kubelet sets for the whole machine: it finds here what it wants, and leaves the real values alone.
mkdir "$DATA/sysctl"
while read -r name value; do
    echo "$value" >"$DATA/sysctl/$name"
    mount --bind "$DATA/sysctl/$name" "/proc/sys/${name//.//}"
done <<'S'
vm.overcommit_memory 1
vm.panic_on_oom 0
kernel.panic 10
kernel.panic_on_oops 1
kernel.keys.root_maxkeys 1000000
kernel.keys.root_maxbytes 25000000
S

for _ in {1..500}; do
    [ ! -e "$DATA/cable" ] || break
    sleep 0.02
done
[ -e "$DATA/cable" ] || { echo "nobody plugged in the cable" >&2; exit 1; }
ip link set lo up
ip addr add "$NODE_ADDRESS/30" dev eth0
ip link set eth0 up
ip route add default via "$HOST_ADDRESS"
echo 1 >/proc/sys/net/ipv4/ip_forward
# The address of DNS lies on a bridge of its own: not every kernel has dummy interfaces.
ip link add dns type bridge
ip addr add "$DNS_ADDRESS/32" dev dns
ip link set dns up
# Nothing in the node asks the machine's own resolver.
echo "nameserver $DNS_ADDRESS" >/run/resolv.conf
mount --bind /run/resolv.conf /etc/resolv.conf

# kubelet wants the group below which it makes those of pods: in each hierarchy, or in the one of version 2.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p "/sys/fs/cgroup/$NAME"
    sed 's/[^ ]*/+&/g' "/sys/fs/cgroup/$NAME/cgroup.controllers" >"/sys/fs/cgroup/$NAME/cgroup.subtree_control"
else
    for hierarchy in /sys/fs/cgroup/*; do
        [ "${hierarchy##*/}" = unified ] || mkdir -p "$hierarchy/$NAME"
    done
    for of in cpus mems; do
        cat "/sys/fs/cgroup/cpuset/cpuset.$of" >"/sys/fs/cgroup/cpuset/$NAME/cpuset.$of"
    done
fi

run() {
    local log=$LOGS/$1.log
    shift
    "$@" >>"$log" 2>&1 &
}
as() { echo "--kubeconfig=$DATA/$1.kubeconfig"; }
control() { "$KUBECTL" "$(as admin)" "$@"; }
export LD_LIBRARY_PATH=$LIBRARIES PATH=$PACKAGES/usr/bin:$PACKAGES/usr/sbin:/usr/sbin:/usr/bin:/sbin:/bin

run etcd "$ETCD" --data-dir "$DATA/etcd" --log-level warn --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster default=http://127.0.0.1:2380
run containerd containerd --config "$DATA/containerd.toml"
# Advertised is an address that pods reach. Without InternalIP first, logs and exec would look for the node by DNS.
run kube-apiserver "$KUBE_APISERVER" --etcd-servers=http://127.0.0.1:2379 \
    --bind-address=0.0.0.0 --secure-port=6443 --advertise-address="$NODE_ADDRESS" \
    --tls-cert-file="$PKI/server.crt" --tls-private-key-file="$PKI/server.key" --client-ca-file="$PKI/ca.crt" \
    --service-account-key-file="$PKI/tokens.pub" --service-account-signing-key-file="$PKI/tokens.key" \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-cluster-ip-range="$SERVICES" \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
    --kubelet-preferred-address-types=InternalIP --kubelet-certificate-authority="$PKI/ca.crt" \
    --kubelet-client-certificate="$PKI/admin.crt" --kubelet-client-key="$PKI/admin.key"
# Meanwhile, the image that holds a pod's namespaces together.
(
    for _ in {1..200}; do
        ctr -a "$CONTAINERD" version >/dev/null 2>&1 && break
        sleep 0.05
    done
    ctr -a "$CONTAINERD" -n k8s.io images import "$PAUSE"
) >>"$LOGS/import.log" 2>&1 &
for _ in {1..900}; do
    ! control get --raw /readyz >/dev/null 2>&1 || break
    sleep 0.1
done
# A claim would stay pending for up to 15 s.
run kube-controller-manager "$KUBE_CONTROLLER_MANAGER" "$(as controller-manager)" --root-ca-file="$PKI/ca.crt" \
    --service-account-private-key-file="$PKI/tokens.key" --use-service-account-credentials --leader-elect=false \
    --pvclaimbinder-sync-period=1s --cluster-cidr="$PODS" --bind-address=127.0.0.1 \
    --authentication-kubeconfig="$DATA/controller-manager.kubeconfig" \
    --authorization-kubeconfig="$DATA/controller-manager.kubeconfig"
run kube-scheduler "$KUBE_SCHEDULER" "$(as scheduler)" --leader-elect=false --bind-address=127.0.0.1 \
    --authentication-kubeconfig="$DATA/scheduler.kubeconfig" --authorization-kubeconfig="$DATA/scheduler.kubeconfig"
run kubelet "$KUBELET" --config="$DATA/kubelet.yaml" "$(as kubelet)" --hostname-override=node \
    --node-ip="$NODE_ADDRESS" --root-dir=/var/lib/kubelet
run kube-proxy "$KUBE_PROXY" --config="$DATA/kube-proxy.yaml"
run coredns "$COREDNS" -conf "$DATA/Corefile"

# The load balancer of this cluster: each Service of that type gets an address that this machine has a route to.
balance() {
    local next=$BALANCED_FIRST namespace name kind address
    while :; do
        control get services --all-namespaces --watch -o jsonpath='{.metadata.namespace} {.metadata.name} {.spec.type} {.status.loadBalancer.ingress[0].ip}{"\n"}' |
            while read -r namespace name kind address; do
                [ "$kind" = LoadBalancer ] && [ -z "$address" ] || continue
                next=$(cat "$DATA/balanced" 2>/dev/null || echo "$next")
                [ "$next" -le "$BALANCED_LAST" ] || continue
                control --namespace "$namespace" patch service "$name" --subresource=status --type=merge \
                    --patch "{\"status\": {\"loadBalancer\": {\"ingress\": [{\"ip\": \"$BALANCED_NET.$next\"}]}}}" &&
                    echo $((next + 1)) >"$DATA/balanced"
            done
        sleep 1
    done
}
run balancer balance

while :; do
    wait -n 2>/dev/null || sleep 1
done
