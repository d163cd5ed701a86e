package main

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cellgate/auth"
	"cellgate/broker/command"
	"cellgate/cmd/cellgate/app"
)

// completionPatience is the timeout of a completion's call: the user waits at the keyboard.
const completionPatience = 2 * time.Second

// candidates returns the possible values that begin with what has been typed.
type candidates func(ctx context.Context, c *apiClient, typed string) []string

// asked has the flags and arguments whose values a running gateway knows, by name.
func asked() map[string]candidates {
	return map[string]candidates{
		"vin": vehicleNames, "VIN": vehicleNames, "rule": ruleNames, "RULE": ruleNames, "topic": ruleTopics,
		"ID": commandIDs, "command": commandIDs, "sub": vehicleNames, "CLIENT": vehicleNames, "NODE": gatewayNames,
	}
}

// fixed has the flags and arguments with fixed values.
func fixed() map[string][]string {
	return map[string][]string{
		"LANE": {"p0", "p1", "p2"}, "state": stateNames(), "scope": auth.Scopes(), "alg": {"ES256", "EdDSA"},
		"role": {auth.RoleVehicle, auth.RoleService, auth.RoleOperator},
	}
}

// stateNames returns all states of a command.
func stateNames() []string {
	var names []string
	for _, s := range command.States() {
		names = append(names, string(s))
	}
	return names
}

// complete adds completion of flag and argument values to the whole command tree.
func complete(cmd *cobra.Command) {
	of := func(name string) cobra.CompletionFunc {
		if values, ok := fixed()[name]; ok {
			return func(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
				return beginning(values, typed), cobra.ShellCompDirectiveNoFileComp
			}
		}
		find := asked()[name]
		if find == nil || cmd.Flags().Lookup("data") == nil {
			return nil
		}
		return func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
			return askGateway(cmd, find, typed), cobra.ShellCompDirectiveNoFileComp
		}
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if fn := of(f.Name); fn != nil {
			_ = cmd.RegisterFlagCompletionFunc(f.Name, fn) //nolint:errcheck // the flag exists and has none yet
		}
	})
	if words := strings.Fields(cmd.Use); len(words) > 1 {
		if fn := of(strings.Trim(words[1], "[]")); fn != nil {
			cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
				if len(args) > 0 {
					return nil, cobra.ShellCompDirectiveNoFileComp
				}
				return fn(cmd, args, typed)
			}
		}
	}
	for _, sub := range cmd.Commands() {
		complete(sub)
	}
}

// askGateway asks the gateway named by the command's flags. It returns nothing when that fails.
func askGateway(cmd *cobra.Command, find candidates, typed string) []string {
	value := func(name string) string {
		if f := cmd.Flags().Lookup(name); f != nil {
			return f.Value.String()
		}
		return ""
	}
	t := &target{data: value("data"), config: value("config"), api: value("api"), token: value("token"), ca: value("ca")}
	client, err := t.client()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), completionPatience)
	defer cancel()
	return beginning(find(ctx, client, typed), typed)
}

func beginning(values []string, typed string) []string {
	return slices.DeleteFunc(values, func(s string) bool { return !strings.HasPrefix(s, typed) })
}

// completionsShown bounds the number of completions.
const completionsShown = "100"

func vehicleNames(ctx context.Context, c *apiClient, typed string) []string {
	query := url.Values{"limit": {completionsShown}, "prefix": {typed}}
	var page app.VehiclePage
	if c.do(ctx, "GET", "/v1/vehicles?"+query.Encode(), nil, &page) != nil {
		return nil
	}
	var names []string
	for i := range page.Vehicles {
		names = append(names, page.Vehicles[i].VIN)
	}
	return names
}

func rulesInForce(ctx context.Context, c *apiClient) *app.RuleSet {
	var s app.RuleSet
	_ = c.do(ctx, "GET", "/v1/rules", nil, &s) //nolint:errcheck // without rules there are no completions
	return &s
}

func ruleNames(ctx context.Context, c *apiClient, _ string) []string {
	var names []string
	for _, r := range rulesInForce(ctx, c).Rules {
		names = append(names, r.ID)
	}
	return names
}

// ruleTopics returns the topic filters of the rules in force.
func ruleTopics(ctx context.Context, c *apiClient, _ string) []string {
	var topics []string
	for _, r := range rulesInForce(ctx, c).Rules {
		topics = append(topics, r.From...)
	}
	slices.Sort(topics)
	return slices.Compact(topics)
}

// gatewayNames returns the gateways that may be gone: those that do not live.
func gatewayNames(ctx context.Context, c *apiClient, _ string) []string {
	var list app.GatewayList
	if c.do(ctx, "GET", "/v1/gateways", nil, &list) != nil {
		return nil
	}
	var names []string
	for i := range list.Gateways {
		if !list.Gateways[i].Lives {
			names = append(names, list.Gateways[i].Node)
		}
	}
	for _, one := range list.Waiting {
		names = append(names, one.Node)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func commandIDs(ctx context.Context, c *apiClient, _ string) []string {
	var page commandPage
	if c.do(ctx, "GET", "/v1/commands?limit="+completionsShown, nil, &page) != nil {
		return nil
	}
	var ids []string
	for i := range page.Commands {
		ids = append(ids, page.Commands[i].ID)
	}
	return ids
}
