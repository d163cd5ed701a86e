package console

import "net/http"

// maxDrafts bounds the rule sets of playgrounds that are compiled at once.
const maxDrafts = 2

func (v *visit) explain(w http.ResponseWriter) { http.NotFound(w, v.r) }
