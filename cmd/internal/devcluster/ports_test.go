package devcluster

import (
	"net"
	"slices"
	"testing"
)

func TestPortBlocksDoNotOverlap(t *testing.T) {
	t.Parallel()
	var all []string
	for range 3 {
		p := claimPorts()
		defer p.close()
		all = append(all, p.addresses(MaxInstances)...)
	}
	slices.Sort(all)
	if twice := len(all) - len(slices.Compact(slices.Clone(all))); twice > 0 {
		t.Errorf("%d addresses are in two blocks: %v", twice, all)
	}
}

func TestPortBlockAvoidsAPortInUse(t *testing.T) {
	t.Parallel()
	p := claimPorts()
	defer p.close()
	taken, err := net.Listen("tcp", p.addresses(2)[1])
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	addresses := p.addresses(3)
	if slices.Contains(addresses, taken.Addr().String()) {
		t.Errorf("%s is in use, but is in %v", taken.Addr(), addresses)
	}
	for _, address := range addresses {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Error(err)
			continue
		}
		defer l.Close()
	}
}
