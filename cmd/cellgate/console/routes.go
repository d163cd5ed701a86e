package console

// views are the pages by their patterns.
func (c *Console) views() map[string]view {
	return map[string]view{
		"/{$}":    {name: "cell", title: "Cell", nav: "Cell", refresh: 10, load: (*visit).cell},
		"/ledger": {name: "ledger", title: "Ledger", nav: "Ledger", refresh: 2, load: (*visit).ledger},
	}
}

// actions are what forms do, by their patterns.
func (c *Console) actions() map[string]action {
	return map[string]action{
		"/logout": (*visit).logout,
	}
}
