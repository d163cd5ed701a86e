package cell

// Rank orders a command's states for merging: the higher rank wins. The scripts use the same order.
func Rank(state, cause string) int {
	rank := map[string]int{
		"queued": 1, "sent": 2, "delivered": 3, "accepted": 4, "cancelled": 5, "expired": 6,
		"late": 9, "rejected": 10, "failed": 11, "succeeded": 12,
	}[state]
	if state == "expired" {
		switch cause {
		case "not_sent":
		case "unknown":
			rank++
		default:
			rank += 2
		}
	}
	return rank
}
