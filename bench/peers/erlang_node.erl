%% The Erlang side of erlang_node.py: the roles of bench/peers, with notes on stdout and turns on stdin.
%% Notes carry no time of their own: the bench takes their arrival.
-module(erlang_node).
-export([main/0]).

-define(LEFT, 'left@127.0.0.1').

main() ->
    [Role | Numbers] = init:get_plain_arguments(),
    [Size, Flight | Phases] = [list_to_integer(N) || N <- Numbers],
    role(Role, binary:copy(<<0>>, Size), Flight, Phases).

role("receive", _, _, Phases) ->
    register(sink, self()),
    tell(ready),
    [begin receive_all(Count), tell(received) end || Count <- Phases],
    rest();
role("send", Payload, _, Phases) ->
    meet(),
    [phase(fun() -> send_all({sink, ?LEFT}, Payload, Count) end) || Count <- Phases],
    turn(), rest();
role("serve", _, _, _) ->
    register(echo, spawn_link(fun echo/0)),
    tell(ready),
    rest();
role("call", Payload, 1, Phases) ->
    meet(),
    [phase(fun() -> latencies(Payload, Count) end) || Count <- Phases],
    turn(), rest();
role("call", Payload, Flight, Phases) ->
    meet(),
    [phase(fun() -> fly(Payload, Count, Flight) end) || Count <- Phases],
    turn(), rest().

%% -- one way
receive_all(0) -> ok;
receive_all(Count) -> receive {_, _} -> receive_all(Count - 1) end.

send_all(_, _, 0) -> ok;
send_all(To, Payload, Count) -> To ! {Count, Payload}, send_all(To, Payload, Count - 1).

%% -- requests
echo() ->
    receive {From, Number, Payload} -> From ! {Number, Payload} end,
    echo().

request(Payload, Number) ->
    {echo, ?LEFT} ! {self(), Number, Payload},
    receive {Number, Reply} -> Reply end.

latencies(Payload, Count) ->
    Timed = lists:sort([timed(Payload, Number) || Number <- lists:seq(1, Count)]),
    At = fun(Share) -> lists:nth(min(Count, 1 + trunc(Count * Share)), Timed) / 1000 end,
    io:format("{\"what\": \"latency\", \"p50\": ~.1f, \"p99\": ~.1f}~n", [At(0.5), At(0.99)]).

timed(Payload, Number) ->
    Start = erlang:monotonic_time(nanosecond),
    request(Payload, Number),
    erlang:monotonic_time(nanosecond) - Start.

fly(Payload, Count, Flight) ->
    Callers = [spawn_monitor(fun() -> [request(Payload, N) || N <- lists:seq(1, Count div Flight)] end)
               || _ <- lists:seq(1, Flight)],
    [receive {'DOWN', Ref, process, Pid, normal} -> ok end || {Pid, Ref} <- Callers].

%% -- the line to the bench
phase(Work) -> turn(), tell(sending), Work(), tell(sent).

tell(What) -> io:format("{\"what\": \"~s\"}~n", [What]).

turn() -> tell(ready), await_line().

await_line() ->
    case io:get_line("") of
        eof -> halt();  % the bench has gone
        _ -> ok
    end.

rest() -> await_line(), rest().

meet() -> meet(100).
meet(0) -> error("no link to the other node");
meet(Tries) ->
    case net_kernel:connect_node(?LEFT) of
        true -> ok;
        _ -> timer:sleep(50), meet(Tries - 1)
    end.
