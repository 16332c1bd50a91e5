"""Experiment 4: vLLM from the start of its process until it answers, by load format.

    taker       what the runner sees of all this
    formats     which load format stands for which contender, and with which arguments vLLM is given it
    engine      the interpreter that has vLLM: its versions, its device, its load formats
    plan        what is done once before the first sample: a first start, whose answer all others' must be
    served      one model by one vLLM, and where what is found out of the two is kept
    copies      the copy for tensorizer, by vLLM's own recipe, and whether vLLM can serve it
    side_files  configuration and tokenizer, made where a checkpoint has none
    sample      one timed start
    start       its folder, its arguments, its environment
    keeper      the process that starts vLLM, asks it, and ends all that it started
    log         what vLLM says of itself
    inside/     what runs in vLLM's interpreter, where slipstream need not be installed

One sample:

    the benchmark               keeper                               vLLM, its API server and engine
    ------------------------------------------------------------------------------------------------------------
    starts it              ->   ready
    prepare(pid): cold          (a cgroup's limits hold for all that it starts)
    go                     ->   starts the server, clock starts ->   imports, loads the weights
                                GET /health, again and again    ->   200: health_s
                                POST /v1/completions, streamed  ->   the first event: first_token_s
                                the same, 8 tokens              ->   the answer, compared with the first start's
    measured               <-
    end                    ->   SIGTERM, then SIGKILL to all    ->   gone, and its port closed
"""
