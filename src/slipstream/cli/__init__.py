"""The command line: one module per command, over the public API only.

    main        the application: which commands there are
    load        stream a checkpoint and say how fast it came
    inspect     what a checkpoint holds
    plan        what a load would read, how, and why
    pull        copy files into a directory
    synth       write a synthetic checkpoint
    bench       the benchmark's commands: bench_run, bench_floor, bench_list, bench_report, bench_compare

    arguments   the arguments that several commands share
    ending      how a command ends: exit codes, the error paragraph, Ctrl-C, a closed pipe
    progress    the bar, or plain lines where there is no terminal
    text        numbers, names and tables for people; names out of files cannot harm the terminal

Nothing here is imported by the library.
"""
