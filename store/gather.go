package store

import "context"

// gather has work that comes one by one done in groups. While one group is
// being done the next one fills, so a group is as large as the load makes it,
// and nothing waits for the sake of a larger one. It returns when ctx is done;
// then drop is called for what still waits.
func gather[T any](ctx context.Context, in <-chan T, most int, do func([]T), drop func(T)) {
	for {
		select {
		case first := <-in:
			do(fill([]T{first}, in, most))
		case <-ctx.Done():
			for _, rest := range fill(nil, in, cap(in)) {
				drop(rest)
			}
			return
		}
	}
}

// fill adds to group what can be had without waiting.
func fill[T any](group []T, in <-chan T, most int) []T {
	for len(group) < most {
		select {
		case next := <-in:
			group = append(group, next)
		default:
			return group
		}
	}
	return group
}
