package cli

import (
	"net"
	"strconv"
)

const (
	// The first block of ports begins with the default of http.listen. A block
	// has one for each instance that there may be.
	devFirstPort  = 8470
	devBlock      = 10
	devMostBlocks = 50
)

// devPorts are the ports that the instances of one dev listen on. No other dev
// takes them, not even while an instance is down.
type devPorts struct {
	first int // 0 if none could be claimed

	// claim is held for as long as the block is used. It is of UDP, so that it
	// is in the way of no instance.
	claim net.PacketConn
}

// claimDevPorts claims the first block of ports that no dev has.
func claimDevPorts() *devPorts {
	for n := range devMostBlocks {
		first := devFirstPort + n*devBlock
		if claim, err := net.ListenPacket("udp", devAddress(first)); err == nil {
			return &devPorts{first: first, claim: claim}
		}
	}
	return &devPorts{}
}

func (p *devPorts) close() {
	if p.claim != nil {
		p.claim.Close()
	}
}

// addresses returns addresses for so many instances to listen on, of which there
// are at most devMostInstances: those of the block or, where another program has
// taken one, any other.
func (p *devPorts) addresses(n int) []string {
	addresses := make([]string, n)
	for i := range addresses {
		tries := []int{0} // the system chooses
		if p.first != 0 {
			tries = []int{p.first + i, 0}
		}
		for _, port := range tries {
			addresses[i] = devAddress(port)
			if l, err := net.Listen("tcp", addresses[i]); err == nil {
				defer l.Close() // once all are found, so that they differ
				addresses[i] = l.Addr().String()
				break
			}
		}
	}
	return addresses
}

func devAddress(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
