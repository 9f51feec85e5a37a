"""HTTP: strict JSON in, problem documents out, request ids, headers, conditional and repeated requests."""
