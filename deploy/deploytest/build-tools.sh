#!/bin/sh
# Builds the programs that the tests run: Helm, a Kubernetes control plane, kubectl, and
# kwok, which simulates the nodes. The first build takes long; later ones use Go's build
# cache.
set -eu
cd "$(dirname "$0")"
into=$(cd ../.. && pwd)/bin/deploytest
mkdir -p "$into"

while read -r name package; do
	begin=$(date +%s)
	CGO_ENABLED=0 nice "${GO:-go}" build -trimpath -buildvcs=false -ldflags '-s -w' -o "$into/$name" "$package"
	echo "built $name in $(($(date +%s) - begin)) s" >&2
done <<END
helm helm.sh/helm/v4/cmd/helm
helm3 helm.sh/helm/v3/cmd/helm
etcd go.etcd.io/etcd/server/v3
kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
kube-controller-manager k8s.io/kubernetes/cmd/kube-controller-manager
kube-scheduler k8s.io/kubernetes/cmd/kube-scheduler
kubectl k8s.io/kubernetes/cmd/kubectl
kwok sigs.k8s.io/kwok/cmd/kwok
END
