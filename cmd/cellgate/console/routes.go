package console

// views returns the pages by pattern.
func (c *Console) views() map[string]view {
	return map[string]view{
		"/{$}":                  {name: "cell", title: "Cell", nav: "Cell", refresh: 10, load: (*visit).cell},
		"/ledger":               {name: "ledger", title: "Ledger", nav: "Ledger", load: (*visit).ledger},
		"/vehicles":             {name: "vehicles", title: "Vehicles", nav: "Vehicles", load: (*visit).vehicles},
		"/vehicles/{vin}":       {name: "vehicle", title: "Vehicle", nav: "Vehicles", script: "vehicle.js", load: (*visit).vehicle},
		"/commands":             {name: "commands", title: "Commands", nav: "Commands", load: (*visit).commands},
		"/commands/{vin}/{id}":  {name: "command", title: "Command", nav: "Commands", load: (*visit).command},
		"/rules":                {name: "rules", title: "Rules", nav: "Rules", refresh: 5, load: (*visit).rules},
		"/rules/history":        {name: "history", title: "History of the rules", nav: "Rules", load: (*visit).ruleHistory},
		"/rules/history/{hash}": {name: "ran", title: "Rule set", nav: "Rules", load: (*visit).ranRules},
		"/playground":           {name: "playground", title: "Playground", nav: "Playground", script: "playground.js", load: (*visit).playground},
		"/trace":                {name: "trace", title: "Trace", nav: "Trace", script: "trace.js", load: (*visit).trace},
	}
}

// actions returns the actions of forms by pattern.
func (c *Console) actions() map[string]action {
	return map[string]action{
		"/logout":                     (*visit).logout,
		"/parts":                      (*visit).setPart,
		"/vehicles/{vin}/commands":    (*visit).sendCommand,
		"/vehicles/{vin}/disconnect":  (*visit).disconnect,
		"/commands/{vin}/{id}/cancel": (*visit).cancelCommand,
		"/rules/rollback":             (*visit).rollback,
		"/rules/reload":               (*visit).reloadRules,
		"/rules/lift":                 (*visit).liftRule,
		"/playground/apply":           (*visit).applyRules,
	}
}

// navigation lists the pages, each with the API call that it needs.
var navigation = []struct{ name, path, needs string }{
	{"Cell", "/", "GET /v1/status"},
	{"Ledger", "/ledger", "GET /v1/ledger"},
	{"Vehicles", "/vehicles", "GET /v1/vehicles"},
	{"Commands", "/commands", "GET /v1/commands"},
	{"Rules", "/rules", "GET /v1/rules"},
	{"Playground", "/playground", "POST /v1/rules/explain"},
	{"Trace", "/trace", "GET /v1/trace"},
}
