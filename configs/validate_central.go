package configs

import "fmt"

// centralPath returns the key path of a centre; a single centre may be written without a list.
func (k *checker) centralPath(i int) string {
	if at := fmt.Sprintf("central[%d]", i); len(k.cfg.Central) > 1 || k.d.places[at] != (place{}) {
		return at
	}
	return "central"
}

func (k *checker) central() {
	names, groups := map[string]bool{}, map[string]bool{}
	for i := range k.cfg.Central {
		c, path := &k.cfg.Central[i], k.centralPath(i)
		k.kafka(path+".kafka", &c.Kafka)
		k.word(path+".name", c.Name)
		k.word(path+".group", c.Group)
		if names[c.Name] {
			k.problem(path+".name", fmt.Sprintf("%q is the name of two centres", c.Name), "give every centre a name of its own")
		}
		if groups[c.Group] {
			k.problem(path+".group", fmt.Sprintf("%q is the group of two centres", c.Group), "give every centre a group of its own, or leave it out")
		}
		if c.Mode == "exactly_once" && k.cfg.Cell.Several() {
			k.problem(path+".mode", "exactly_once is for a worker that has the whole outbox", "use cellgate sync with a configuration of its own, or mode: at_least_once")
		}
		names[c.Name], groups[c.Group] = true, true
	}
}
