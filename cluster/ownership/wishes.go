package ownership

// wantedLeases returns the leases that this instance asks their holders to hand over:
// at most window, and from each holder an equal share, so that a holder that does not
// respond delays no other. It also reports whether there are more. The wishes are part
// of each message, so a lost wish is repeated.
func wantedLeases(states []partitionState, window int) (leases []HeldLease, more bool) {
	asked := make(map[Member]int)
	for p := range states {
		if part := &states[p]; part.waitsForHolder() {
			asked[part.holder] = 0
		}
	}
	share := (window + len(asked) - 1) / max(1, len(asked))
	for p := range states {
		part := &states[p]
		switch {
		case !part.waitsForHolder():
		case asked[part.holder] == share, len(leases) == window:
			more = true
		default:
			asked[part.holder]++
			leases = append(leases, heldLease(p, part.epoch, part.holder))
		}
	}
	return leases, more
}
