%% The same exchange between two Erlang nodes: processes that send each other messages.
-module(ping_peer).
-export([server/0, client/1]).

server() ->
    register(ping, self()),
    io:format("ready~n"),
    answer(0).

answer(Total) ->
    receive
        {From, Id, Payload} ->
            From ! {Id, Total + 1, Payload},
            answer(Total + 1)
    end.

client([Node | Numbers]) ->
    [Count, Width, Size] = [list_to_integer(atom_to_list(Number)) || Number <- Numbers],
    Server = {ping, Node},
    Payload = binary:copy(<<16#A5>>, Size),
    First = min(Count, Width),
    Running = erlang:monotonic_time(),
    Sent = queue:from_list([send(Server, Id, Payload) || Id <- lists:seq(1, First)]),
    {FirstPong, RoundTrips} = collect(Server, Payload, First + 1, Count, Sent, none, []),
    Took = seconds(erlang:monotonic_time() - Running),
    Sorted = list_to_tuple(lists:sort(RoundTrips)),
    Percentile = fun(P) -> 1000 * seconds(element(1 + (Count * P) div 100, Sorted)) end,
    io:format("{\"first_pong_ms\":~p,\"p50_ms\":~p,\"p99_ms\":~p,\"rate_per_s\":~p}~n",
              [1000 * seconds(FirstPong - erlang:system_info(start_time)), Percentile(50), Percentile(99), Count / Took]),
    halt().

send(Server, Id, Payload) ->
    Now = erlang:monotonic_time(),
    Server ! {self(), Id, Payload},
    Now.

%% Messages between two processes keep their order.
collect(Server, Payload, Next, Count, Sent, FirstPong, RoundTrips) ->
    case queue:out(Sent) of
        {empty, _} ->
            {FirstPong, RoundTrips};
        {{value, Since}, Rest} ->
            receive {_, _, Payload} -> ok end,
            Now = erlang:monotonic_time(),
            Sooner = case FirstPong of none -> Now; _ -> FirstPong end,
            RoundTrip = [Now - Since | RoundTrips],
            case Next =< Count of
                true ->
                    More = queue:in(send(Server, Next, Payload), Rest),
                    collect(Server, Payload, Next + 1, Count, More, Sooner, RoundTrip);
                false ->
                    collect(Server, Payload, Next, Count, Rest, Sooner, RoundTrip)
            end
    end.

seconds(Native) ->
    erlang:convert_time_unit(Native, native, nanosecond) / 1.0e9.
