package devcluster

import (
	"net"
	"strconv"
)

const (
	// The first block of ports begins with the default of http.listen. A block
	// has one for each instance that there may be.
	firstPort = 8470
	blockSize = 10
	maxBlocks = 50
)

// portBlock are the ports that the instances of one dev listen on. No other dev
// takes them, not even while an instance is down.
type portBlock struct {
	first int // 0 if none could be claimed

	// claim is held for as long as the block is used. It is of UDP, so that it
	// is in the way of no instance.
	claim net.PacketConn
}

// claimPorts claims the first block of ports that no dev has.
func claimPorts() *portBlock {
	for n := range maxBlocks {
		first := firstPort + n*blockSize
		if claim, err := net.ListenPacket("udp", address(first)); err == nil {
			return &portBlock{first: first, claim: claim}
		}
	}
	return &portBlock{}
}

func (p *portBlock) close() {
	if p.claim != nil {
		p.claim.Close()
	}
}

// addresses returns addresses for so many instances to listen on, of which there
// are at most MaxInstances: those of the block or, where another program has
// taken one, any other.
func (p *portBlock) addresses(n int) []string {
	addresses := make([]string, n)
	for i := range addresses {
		tries := []int{0} // the system chooses
		if p.first != 0 {
			tries = []int{p.first + i, 0}
		}
		for _, port := range tries {
			addresses[i] = address(port)
			if l, err := net.Listen("tcp", addresses[i]); err == nil {
				defer l.Close() // once all are found, so that they differ
				addresses[i] = l.Addr().String()
				break
			}
		}
	}
	return addresses
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
