output "address" {
  description = "The hub's public address, for the spokes."
  value       = aws_eip.this.public_ip
}

output "interface" {
  description = "Its interface: the target of further routes to the privnet."
  value       = aws_network_interface.this.id
}

output "role_arn" {
  description = "Its role, for the trust policies of other accounts' discovery roles."
  value       = aws_iam_role.this.arn
}

output "group" {
  description = "Its Auto Scaling group."
  value       = aws_autoscaling_group.this.name
}
