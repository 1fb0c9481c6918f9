"""NIR graphs as graphs: order, shapes, graphs inside of graphs, and what other tools' files are."""
